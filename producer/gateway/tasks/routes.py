"""The routes of a task: submit, look up, wait, cancel, resume, continue."""

from contextlib import suppress
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime
from pydantic_core import to_jsonable_python

from langgraph_rq.producer.client.reading.lookup import Receipt, TaskStatus
from langgraph_rq.producer.client.resume import MISSING
from langgraph_rq.producer.gateway.answers import ReceiptAnswer, StateAnswer, StatusAnswer, TasksAnswer
from langgraph_rq.producer.gateway.dependencies import Caller, FromCaller
from langgraph_rq.producer.gateway.problems import ProblemError, documented
from langgraph_rq.producer.gateway.tasks.bodies import ResumeBody, StrictRoute, SubmitBody, known_form, refuse_both
from langgraph_rq.shared.errors import UnknownTaskError, Violation, WaitTimeoutError
from langgraph_rq.shared.queue.records import MOST_READ
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.tasks import GraphName, Name, Priority, State

LONGEST_WAIT_S = 60.0
"""Proxies usually cut a longer silence off."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same request again under this key is the same task; another one is a conflict.",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
    ),
]
TaskPath = Annotated[str, Depends(known_form)]

router = APIRouter(route_class=StrictRoute, tags=["tasks"])


@router.post(
    "/tasks",
    status_code=202,
    response_model=ReceiptAnswer,
    responses=documented(401, 403, 408, 409, 413, 422, 429, 503),
)
async def submit(body: SubmitBody, caller: FromCaller, key: IdempotencyKey = None) -> Response:
    """Put a task on the queue. `Location` is its path."""
    refuse_both(body.task_id, key)
    document = body.document
    if key is not None:
        document["task_id"] = keyed_id(key)
    receipt, headers = await enqueue(caller, document)
    return _accepted(receipt, headers)


@router.get("/tasks", response_model=TasksAnswer, responses=documented(401, 422, 503))
async def list_tasks(
    caller: FromCaller,
    limit: Annotated[int, Query(ge=1, le=MOST_READ)] = 20,
    before: Annotated[int, Query(ge=0, description="`next` of the page before.")] = 0,
    state: State | None = None,
    graph: GraphName | None = None,
    user_id: Name | None = None,
    since: Annotated[AwareDatetime | None, Query(description="Submitted at this instant or later.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Submitted at this instant or earlier.")] = None,
) -> Response:
    """List tasks, the newest first; a page may have fewer than `limit`, and is the last one if `next` is null."""
    page = await caller.client.tasks(
        before=before, limit=limit, state=state, graph=graph, user_id=user_id, since=since, until=until
    )
    return JSONResponse({"tasks": [_status(one) for one in page.tasks], "next": page.following or None})


@router.get("/tasks/{task_id}", response_model=StatusAnswer, responses=documented(401, 404, 503))
async def status(task_id: TaskPath, caller: FromCaller) -> Response:
    """Read where a task is."""
    return JSONResponse(_status(await caller.client.status(task_id)))


@router.get(
    "/tasks/{task_id}/result",
    response_model=TaskResult,
    responses={202: {"model": StatusAnswer, "description": "It has not ended"}, **documented(401, 404, 422, 502, 503)},
)
async def result(
    task_id: TaskPath,
    caller: FromCaller,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for the end.")] = 0.0,
) -> Response:
    """Get the result, at once or as soon as it is there; 202 while there is none."""
    document = await caller.client.result_json(task_id)
    if document is None and wait:
        with suppress(WaitTimeoutError):
            document = await caller.client.wait_json(task_id, wait)
    if document is not None:
        return Response(document, media_type="application/json")
    found = await caller.client.status(task_id)
    if found.state.is_terminal:
        raise UnknownTaskError(task_id, found.state)
    return JSONResponse(_status(found), 202, {"Retry-After": "1"})


@router.delete(
    "/tasks/{task_id}",
    response_model=StateAnswer,
    responses={202: {"model": StateAnswer, "description": "Its worker stops it"}, **documented(401, 404, 503)},
)
async def cancel(task_id: TaskPath, caller: FromCaller) -> Response:
    """Stop a task: from now on no model call of it starts."""
    state = await caller.client.cancel(task_id)
    return JSONResponse({"task_id": task_id, "state": state}, 202 if state is State.RUNNING else 200)


@router.post(
    "/tasks/{task_id}/resume",
    status_code=202,
    response_model=ReceiptAnswer,
    responses=documented(401, 404, 408, 409, 413, 422, 429, 502, 503),
)
async def resume(task_id: TaskPath, body: ResumeBody, caller: FromCaller) -> Response:
    """Answer what the task was interrupted for; the receipt is that of the task that goes on with the thread."""
    value = body.value if "value" in body.model_fields_set else MISSING
    headers = await caller.admit(None)
    receipt = await caller.client.resume(task_id, value, answers=body.answers or None, seen=body.seen)
    return _accepted(receipt, headers)


@router.post(
    "/tasks/{task_id}/continue",
    status_code=202,
    response_model=ReceiptAnswer,
    responses=documented(401, 404, 408, 409, 413, 422, 429, 502, 503),
)
async def continue_(task_id: TaskPath, caller: FromCaller) -> Response:
    """Continue a task that failed, timed out or was cancelled from its last checkpoint, by a new task."""
    headers = await caller.admit(None)
    receipt = await caller.client.continue_(task_id)
    return _accepted(receipt, headers)


async def enqueue(caller: Caller, document: dict[str, Any]) -> tuple[Receipt, dict[str, str]]:
    """Check and submit one task; answers the receipt and the rate limit's headers."""
    task = caller.client.parse(document)
    if task.priority not in caller.grant.priorities:
        allowed = ", ".join(priority for priority in Priority if priority in caller.grant.priorities)
        expected = f"{allowed}, which this key may use"
        refused = Violation("priority", expected, task.priority)
        raise ProblemError(403, "priority_refused", str(refused), violations=[refused])
    headers = await caller.admit(task.user_id)
    (receipt,) = [receipt async for receipt in caller.client.submit_each([task])]
    return receipt, headers


def keyed_id(key: str) -> str:
    """Make a task's id from an idempotency key; Redis knows it under its tenant."""
    return f"key-{sha256(key.encode()).hexdigest()[:32]}"


def _accepted(receipt: Receipt, headers: dict[str, str]) -> Response:
    body = {"task_id": receipt.task_id, "state": receipt.state, "created": receipt.created}
    body["warnings"] = receipt.warnings
    return JSONResponse(body, 202, {**headers, "Location": f"/tasks/{receipt.task_id}"})


def _status(found: TaskStatus) -> dict[str, Any]:
    answer: dict[str, Any] = to_jsonable_python(found, include=set(StatusAnswer.model_fields))
    return answer

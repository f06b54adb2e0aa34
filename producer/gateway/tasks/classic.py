"""The classic contract: ask and wait for the answer in one request, and look it up by its id later."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from langgraph_rq.producer.gateway.answers import FoundAnswer, QueryAnswer
from langgraph_rq.producer.gateway.dependencies import FromCaller
from langgraph_rq.producer.gateway.problems import ProblemError, documented
from langgraph_rq.producer.gateway.tasks.bodies import QueryBody, StrictRoute, known_form
from langgraph_rq.producer.gateway.tasks.routes import LONGEST_WAIT_S, IdempotencyKey, enqueue, keyed_id
from langgraph_rq.shared.errors import ErrorType, UnknownTaskError, WaitTimeoutError
from langgraph_rq.shared.results import TaskResult

router = APIRouter(route_class=StrictRoute, tags=["classic"])


@router.post(
    "/query",
    response_model=QueryAnswer,
    responses={
        202: {"model": QueryAnswer, "description": "Not yet"},
        **documented(401, 403, 408, 409, 413, 422, 429, 502, 503),
    },
)
async def query(
    body: QueryBody,
    caller: FromCaller,
    key: IdempotencyKey = None,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for the answer.")] = 30.0,
) -> Response:
    """Ask the assistant and wait for its answer; 202 when it takes longer: ask `/status/{request_id}` then."""
    document: dict[str, Any] = {
        "input": {"query": body.query},
        "user_id": body.user_id,
        "thread_id": body.thread_id,
        **({"task_id": keyed_id(key)} if key else {}),
    }
    receipt, headers = await enqueue(caller, document)
    headers["Location"] = f"/status/{receipt.task_id}"
    try:
        ended = await caller.client.wait(receipt.task_id, wait)
    except WaitTimeoutError:
        pending = {"request_id": receipt.task_id, "result": None, "error": None, "metadata": {"status": receipt.state}}
        return JSONResponse(pending, 202, headers)
    answer = _answer(ended)
    if ended.error and ended.error.type is ErrorType.BUDGET_EXCEEDED:
        retry_s = max(1, round(ended.error.retry_after_s or 0))
        raise ProblemError(
            429, "budget_exceeded", ended.error.message, headers={**headers, "Retry-After": str(retry_s)}, more=answer
        )
    return JSONResponse(answer, headers=headers)


@router.get("/status/{request_id}", response_model=FoundAnswer, responses=documented(401, 502, 503))
async def status(request_id: str, caller: FromCaller) -> Response:
    """Look a request up: whether it is known, and the graph's values once it has ended."""
    try:
        await caller.client.status(await known_form(request_id))
    except UnknownTaskError:
        return JSONResponse({"request_id": request_id, "found": False, "state": None})
    ended = await caller.client.result(request_id)
    return JSONResponse({"request_id": request_id, "found": True, "state": ended.result if ended else None})


def _answer(ended: TaskResult) -> dict[str, Any]:
    text = ended.result.get("answer") if isinstance(ended.result, dict) else ended.result
    if text is not None and not isinstance(text, str):
        text = json.dumps(ended.result)
    return {
        "request_id": ended.task_id,
        "result": text,
        "error": f"{ended.error.type}: {ended.error.message}" if ended.error else None,
        "metadata": {"status": ended.status, **ended.metadata.model_dump(mode="json")},
    }

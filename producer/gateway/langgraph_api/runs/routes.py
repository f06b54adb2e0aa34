"""Runs: tasks, as LangGraph's API starts, follows, lists and cancels them."""

from collections.abc import Mapping
from contextlib import ExitStack, aclosing
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field, RootModel, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from langgraph_rq.producer.gateway.dependencies import Caller, FromCaller
from langgraph_rq.producer.gateway.langgraph_api.ids import thread_of_its_own
from langgraph_rq.producer.gateway.langgraph_api.lists import Listed
from langgraph_rq.producer.gateway.langgraph_api.objects import (
    MOST_LISTED,
    Run,
    cancel_runs,
    newest_runs,
    read_run,
    read_thread,
)
from langgraph_rq.producer.gateway.langgraph_api.runs.bodies import Mode, RunBody
from langgraph_rq.producer.gateway.langgraph_api.runs.cancelled import CancelBody
from langgraph_rq.producer.gateway.langgraph_api.runs.start import answer_started, start, start_many
from langgraph_rq.producer.gateway.langgraph_api.runs.stream import (
    ALL_MODES,
    RunStream,
    open_stream,
)
from langgraph_rq.producer.gateway.langgraph_api.runs.wait import AwaitedRun
from langgraph_rq.producer.gateway.langgraph_api.texts import TextRoute
from langgraph_rq.producer.gateway.langgraph_api.threads.routes import ThreadPath
from langgraph_rq.producer.gateway.problems import ProblemError, documented
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.records import forget_run_call
from langgraph_rq.shared.run_fields import TaskId
from langgraph_rq.shared.tasks import task_key, thread_key

_RUN_ID = TypeAdapter(TaskId)
_PROBLEMS = documented(400, 401, 404, 408, 409, 413, 422, 429, 503)

router = APIRouter(route_class=TextRoute, tags=["langgraph: runs"])


async def _known_run(run: Annotated[str, Path(description="A run's id.")]) -> str:
    """Accept a possible id of one of the caller's runs. Any other is answered as unknown."""
    try:
        return _RUN_ID.validate_python(run)
    except ValidationError:
        raise ProblemError(404, "unknown_run", f"Run with ID {run[:60]} not found") from None


_Key = Literal[
    "run_id", "thread_id", "assistant_id", "created_at", "updated_at", "status", "metadata", "kwargs",
    "multitask_strategy"
]  # fmt: skip
Action = Annotated[
    Literal["interrupt", "rollback"],
    Query(description="Rollback: what it has written to the thread is removed, and the run itself."),
]
RunPath = Annotated[str, Depends(_known_run)]

_CAMEL_CASE = {to_camel(name): name for name in RunBody.model_fields if to_camel(name) != name}


class Batch(RootModel[list[RunBody]]):
    """Runs without threads."""

    root: list[RunBody] = Field(min_length=1, max_length=100)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, given: Any) -> Any:
        """Accept fields in camel case: LangGraph's SDK for JavaScript sends them here as its caller wrote them."""
        if not isinstance(given, list):
            return given
        return [_snake_case(one) if isinstance(one, dict) else one for one in given]


def _snake_case(fields: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {_CAMEL_CASE[name]: value for name, value in fields.items() if name in _CAMEL_CASE}
    return renamed | {name: value for name, value in fields.items() if name not in _CAMEL_CASE}


@router.post("/threads/{thread}/runs", responses=_PROBLEMS)
async def create(thread: ThreadPath, body: RunBody, caller: FromCaller) -> JSONResponse:
    """Start a run on a thread."""
    return await _created(caller, await start(caller, body, thread))


@router.post("/runs", responses=_PROBLEMS)
async def create_alone(body: RunBody, caller: FromCaller) -> JSONResponse:
    """Start a run without a thread."""
    return await _created(caller, await start(caller, body, None))


@router.post("/runs/batch", responses=_PROBLEMS)
async def create_batch(body: Batch, caller: FromCaller) -> JSONResponse:
    """Start runs without threads."""
    return JSONResponse(await answer_started(caller, await start_many(caller, body.root)))


@router.post("/threads/{thread}/runs/stream", response_class=Response, responses=_PROBLEMS)
async def stream(thread: ThreadPath, body: RunBody, caller: FromCaller) -> Response:
    """Start a run on a thread, and stream its events."""
    return await _stream(caller, body, thread)


@router.post("/runs/stream", response_class=Response, responses=_PROBLEMS)
async def stream_alone(body: RunBody, caller: FromCaller) -> Response:
    """Start a run without a thread, and stream its events."""
    return await _stream(caller, body, None)


@router.post("/threads/{thread}/runs/wait", response_class=Response, responses=_PROBLEMS)
async def wait(thread: ThreadPath, body: RunBody, caller: FromCaller) -> Response:
    """Start a run on a thread, and wait for its end."""
    return await _wait(caller, body, thread)


@router.post("/runs/wait", response_class=Response, responses=_PROBLEMS)
async def wait_alone(body: RunBody, caller: FromCaller) -> Response:
    """Start a run without a thread, and wait for its end."""
    return await _wait(caller, body, None)


@router.post("/runs/cancel", status_code=204, responses=documented(401, 404, 422, 503))
async def cancel_many(body: CancelBody, caller: FromCaller, action: Action = "interrupt") -> Response:
    """Cancel runs that have not ended."""
    asked, is_any = f"{action} requested via POST /runs/cancel", False
    async with aclosing(body.find(caller)) as found:
        async for run_ids in found:
            await cancel_runs(caller, run_ids, rollback=action == "rollback", reason=asked)
            is_any = is_any or bool(run_ids)
    if not is_any:
        raise ProblemError(404, "unknown_run", "no such run is open")
    return Response(status_code=204)


@router.get("/threads/{thread}/runs", responses=documented(401, 404, 422, 503))
async def list_runs(
    thread: ThreadPath,
    caller: FromCaller,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    status: Literal["pending", "running", "success", "error", "timeout", "interrupted"] | None = None,
    select: Annotated[list[_Key] | None, Listed, Query(description="These keys only.")] = None,
) -> JSONResponse:
    """List the runs of a thread that are still known, the newest first."""
    await read_thread(caller, thread)
    most = offset + limit if status is None else MOST_LISTED
    answers = [run.answer() for run in await newest_runs(caller, thread, most)]
    answers = [one for one in answers if status in (None, one["status"])][offset : offset + limit]
    if select:
        answers = [{name: one[name] for name in select} for one in answers]
    return JSONResponse(answers)


@router.get("/threads/{thread}/runs/{run}", responses=documented(401, 404, 503))
async def get(thread: ThreadPath, run: RunPath, caller: FromCaller) -> JSONResponse:
    """Get a run."""
    return JSONResponse((await read_run(caller, thread, run)).answer())


@router.delete("/threads/{thread}/runs/{run}", status_code=204, responses=documented(401, 404, 409, 503))
async def delete(thread: ThreadPath, run: RunPath, caller: FromCaller) -> Response:
    """Forget a run that has ended; the thread keeps its state."""
    found = await read_run(caller, thread, run)
    is_alone = thread == thread_of_its_own(run)
    key = "" if is_alone else thread_key(thread, caller.tenant)
    call = forget_run_call(task_key(run, caller.tenant), key)
    if not found.state.is_terminal or not await scripts.run(caller.client.redis, call):
        raise ProblemError(409, "run_open", "the run has not ended: cancel it first")
    return Response(status_code=204)


@router.get("/threads/{thread}/runs/{run}/join", response_class=Response, responses=documented(401, 404, 422, 503))
async def join(thread: ThreadPath, run: RunPath, caller: FromCaller, *, cancel_on_disconnect: bool = False) -> Response:
    """Wait for the end of a run."""
    await read_run(caller, thread, run)
    return AwaitedRun(caller, run, _located(thread, run, "join"), cancels=cancel_on_disconnect)


@router.get("/threads/{thread}/runs/{run}/stream", response_class=Response, responses=documented(401, 404, 422, 503))
async def join_stream(
    thread: ThreadPath,
    run: RunPath,
    caller: FromCaller,
    stream_mode: Annotated[list[Mode] | None, Listed, Query(description="These modes only.")] = None,
    after: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    checkpoint_id: Annotated[
        str | None, Query(description="What is shown already; events before it come again.")
    ] = None,
    *,
    cancel_on_disconnect: bool = False,
) -> Response:
    """Stream the events of a run, from its beginning or after an event."""
    del checkpoint_id  # a hint of useStream, which takes a whole run as well
    found = await read_run(caller, thread, run)
    modes = stream_mode or found.record.get("kwargs", {}).get("stream_mode") or ALL_MODES
    with ExitStack() as stack:
        stack.enter_context(caller.gateway.streams.admit(caller.tenant))
        opened = await open_stream(caller, run, after, modes, stack, cancels=cancel_on_disconnect)
        query = {"stream_mode": stream_mode or None, "cancel_on_disconnect": cancel_on_disconnect or None}
        again = urlencode({name: value for name, value in query.items() if value}, doseq=True)
        return _with_headers(opened, _located(thread, run, f"stream?{again}" if again else "stream"))
    raise AssertionError


@router.post("/threads/{thread}/runs/{run}/cancel", responses=documented(401, 404, 422, 503))
async def cancel(
    thread: ThreadPath,
    run: RunPath,
    caller: FromCaller,
    wait: Annotated[bool, Query(description="Answer once it has ended.")] = False,
    action: Action = "interrupt",
    reason: Annotated[str | None, Query(description="What its thread and its result say.", max_length=200)] = None,
) -> Response:
    """Cancel a run: it stops, and its checkpoints stay, or are removed with the run."""
    found = await read_run(caller, thread, run)
    if found.state.is_terminal:
        raise ProblemError(404, "unknown_run", f"Run with ID {run[:60]} has ended")
    asked = f"{action} requested via POST /threads/{{thread_id}}/runs/{{run_id}}/cancel"
    await caller.client.cancel(run, rollback=action == "rollback", reason=reason or asked)
    if not wait:
        return Response(status_code=202)
    return AwaitedRun(caller, run, _located(thread, run, "join"), cancels=False)


async def _created(caller: Caller, run: Run) -> JSONResponse:
    return JSONResponse((await answer_started(caller, [run]))[0], headers=_located(run.thread_id, run.run_id))


async def _stream(caller: Caller, body: RunBody, thread_id: str | None) -> Response:
    with ExitStack() as stack:  # a stream that cannot be opened must not start a run
        stack.enter_context(caller.gateway.streams.admit(caller.tenant))
        run = await start(caller, body, thread_id)
        cancels = body.on_disconnect == "cancel"
        opened = await open_stream(caller, run.run_id, None, body.modes, stack, cancels=cancels, is_new=True)
        return _with_headers(opened, _located(run.thread_id, run.run_id, "stream"))
    raise AssertionError


async def _wait(caller: Caller, body: RunBody, thread_id: str | None) -> Response:
    run = await start(caller, body, thread_id)
    headers = _located(run.thread_id, run.run_id, "join")
    return AwaitedRun(caller, run.run_id, headers, cancels=body.on_disconnect == "cancel", is_new=True)


def _located(thread_id: str, run_id: str, form: str | None = None) -> dict[str, str]:
    path = f"/threads/{quote(thread_id, safe='')}/runs/{run_id}"
    return {"Content-Location": path, **({"Location": f"{path}/{form}"} if form else {})}


def _with_headers(response: RunStream, headers: dict[str, str]) -> RunStream:
    response.headers.update(headers)
    return response

"""Threads: what is listed of them, and their states, which workers read."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter, ValidationError

from langgraph_rq.producer.client.threads import Checkpoint
from langgraph_rq.producer.gateway.dependencies import Caller, FromCaller
from langgraph_rq.producer.gateway.langgraph_api.ids import new_id
from langgraph_rq.producer.gateway.langgraph_api.lists import Listed, StateKeys, select_keys
from langgraph_rq.producer.gateway.langgraph_api.objects import (
    Thread,
    answer_threads,
    forget_threads,
    instant,
    read_thread,
)
from langgraph_rq.producer.gateway.langgraph_api.paths import select_paths
from langgraph_rq.producer.gateway.langgraph_api.texts import TextRoute
from langgraph_rq.producer.gateway.langgraph_api.threads.bodies import (
    CountBody,
    CreateBody,
    HistoryBody,
    PatchBody,
    SearchBody,
    StateBody,
    SuperstepBody,
    UpdateBody,
)
from langgraph_rq.producer.gateway.langgraph_api.threads.search import MOST_ROWS, find_threads
from langgraph_rq.producer.gateway.problems import ProblemError, documented, invalid
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import InvalidInputError, LanggraphRqError, Violation
from langgraph_rq.shared.tasks import ThreadId, thread_key
from langgraph_rq.shared.threads.rows import (
    MADE,
    NO_THREAD,
    OTHERS_MEANWHILE,
    create_call,
    describe_call,
    row_key,
)

_LONGEST_METADATA = 16_000
_EMPTY: dict[str, Any] = {
    "values": {},
    "next": [],
    "tasks": [],
    "metadata": None,
    "created_at": None,
    "checkpoint": None,
    "parent_checkpoint": None,
    "interrupts": [],
    "checkpoint_id": None,
    "parent_checkpoint_id": None,
}

_THREAD_ID = TypeAdapter(ThreadId)

router = APIRouter(route_class=TextRoute, tags=["langgraph: threads"])


async def _known_form(thread: Annotated[str, Path(description="A thread's id.")]) -> str:
    """Accept a possible id. Any other is answered as unknown, which reveals as little."""
    try:
        return _THREAD_ID.validate_python(thread)
    except ValidationError:
        raise ProblemError(404, "unknown_thread", f"Thread with ID {thread[:60]} not found") from None


ThreadPath = Annotated[str, Depends(_known_form)]
_Select = Annotated[StateKeys | None, Listed, Query(description="These keys only; `values.<key>`: one of the values.")]


@router.post("/threads", responses=documented(400, 401, 409, 422, 503))
async def create(body: CreateBody, caller: FromCaller) -> JSONResponse:
    """Make a thread."""
    thread_id = body.thread_id or new_id()
    _refuse_long(body.metadata)
    graph = _graph_of(body) if body.supersteps else ""
    await caller.admit(None)
    made = await make(caller, thread_id, body.metadata, graph, body.ttl.ms if body.ttl else None)
    if made != MADE and body.if_exists == "raise":
        raise ProblemError(409, "thread_exists", f"Thread with ID {thread_id} already exists")
    if made == MADE and body.supersteps:
        await _write_states(caller, thread_id, body.supersteps, graph)
    return JSONResponse((await answer_threads(caller, [await read_thread(caller, thread_id)]))[0])


def _refuse_long(metadata: Mapping[str, Any]) -> None:
    size = len(json.dumps(metadata))
    if size > _LONGEST_METADATA:
        raise invalid(Violation("metadata", f"at most {_LONGEST_METADATA:,} characters of JSON", f"{size:,}"))


async def make(
    caller: Caller, thread_id: str, metadata: Mapping[str, Any], graph: str = "", ttl_ms: int | None = None
) -> int:
    """Make a thread, unless there is one."""
    call = create_call(thread_key(thread_id, caller.tenant), caller.tenant, json.dumps(metadata), graph, ttl_ms)
    return await scripts.run(caller.client.redis, call)


def _graph_of(body: CreateBody) -> str:
    graph = body.metadata.get("graph_id")
    if not isinstance(graph, str) or not graph:
        raise ProblemError(400, "no_graph", "supersteps: expected the graph that writes them as metadata.graph_id")
    return graph


async def _write_states(caller: Caller, thread_id: str, supersteps: list[SuperstepBody], graph: str) -> None:
    """Write the first states of a thread that was just made; if they are refused it is deleted again."""
    steps = [[one.model_dump(mode="json", exclude_unset=True) for one in step.updates] for step in supersteps]
    try:
        await caller.client.threads.update_in_steps(thread_id, steps, graph=graph)
    except LanggraphRqError:
        with suppress(LanggraphRqError):  # those before the one that was refused
            await caller.client.threads.delete(thread_id, graph=graph)
        await forget_threads(caller, [thread_id])
        raise


@router.get("/threads/{thread}", responses=documented(401, 404, 422, 503))
async def get(
    thread: ThreadPath, caller: FromCaller, include: Annotated[str | None, Query(pattern="^ttl$")] = None
) -> JSONResponse:
    """Get a thread."""
    found = await read_thread(caller, thread)
    (answer,) = await answer_threads(caller, [found])
    if include:
        answer["ttl"] = await _ttl(caller, found)
    return JSONResponse(answer)


async def _ttl(caller: Caller, thread: Thread) -> dict[str, Any] | None:
    """Say how long a thread is kept; None: its maker has not said."""
    if thread.row.ttl_ms is None:
        return None
    left_ms = await caller.client.redis.pttl(row_key(thread_key(thread.thread_id, caller.tenant)))
    expires_at = datetime.now(UTC) + timedelta(milliseconds=max(0, left_ms))
    return {
        "strategy": "delete",
        "ttl_minutes": thread.row.ttl_ms / 60_000,
        "expires_at": None if thread.is_busy else instant(expires_at),
    }


@router.patch("/threads/{thread}", responses=documented(401, 404, 409, 422, 503))
async def patch(
    thread: ThreadPath, body: PatchBody, caller: FromCaller, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """Change a thread's metadata, and how long it is kept."""
    key = thread_key(thread, caller.tenant)
    for _ in range(10):
        row = (await read_thread(caller, thread)).row
        merged = {**row.metadata, **body.metadata}
        _refuse_long(merged)
        after = json.dumps(merged)
        call = describe_call(key, caller.tenant, row.metadata_text, after, body.ttl.ms if body.ttl else None)
        described = await scripts.run(caller.client.redis, call)
        if described != OTHERS_MEANWHILE:
            break
    else:
        raise ProblemError(409, "thread_changed", "others change the metadata all the time: try again")
    if body.ttl and row.is_used and row.graph:
        await caller.client.threads.expire(thread, graph=row.graph)
    if described == NO_THREAD or prefer == "return=minimal":
        return Response(status_code=204)
    return JSONResponse((await answer_threads(caller, [await read_thread(caller, thread)]))[0])


@router.post("/threads/search", responses=documented(401, 422, 503))
async def search(body: SearchBody, caller: FromCaller) -> JSONResponse:
    """List threads, the last used first."""
    wanted = body.offset + body.limit + 1
    is_sorted = body.sort_by not in (None, "updated_at") or body.sort_order == "asc"
    found = await find_threads(caller, body, MOST_ROWS if is_sorted else wanted, body.ids)
    if is_sorted:
        by = body.sort_by or "updated_at"
        found.sort(key=lambda one: str(one.answer(None)[by]), reverse=body.sort_order != "asc")
    page = found[body.offset : body.offset + body.limit]
    headers = {"X-Pagination-Total": str(body.offset + len(found[body.offset :][: body.limit + 1]))}
    if len(found) > body.offset + body.limit:
        headers["X-Pagination-Next"] = str(body.offset + body.limit)
    needs_state = not body.select or {"values", "interrupts", "error"} & {*body.select} or body.extract
    answers = await answer_threads(caller, page) if needs_state else [one.answer(None) for one in page]
    for answer in answers:
        extracted = {"extracted": select_paths(answer, body.extract)} if body.extract else {}
        if body.select:
            for name in answer.keys() - {*body.select}:
                del answer[name]
        answer.update(extracted)
    return JSONResponse(answers, headers=headers)


@router.post("/threads/count", responses=documented(401, 422, 503))
async def count(body: CountBody, caller: FromCaller) -> JSONResponse:
    """Count threads, at most 5,000."""
    return JSONResponse(len(await find_threads(caller, body, MOST_ROWS)))


@router.get("/threads/{thread}/state", responses=documented(401, 404, 422, 503))
async def state(
    thread: ThreadPath,
    caller: FromCaller,
    *,
    subgraphs: bool = False,
    select: _Select = None,
) -> JSONResponse:
    """Get the state of a thread."""
    return JSONResponse(select_keys(await _state(caller, thread, None, subgraphs=subgraphs), select))


@router.get("/threads/{thread}/state/{checkpoint_id}", responses=documented(401, 404, 422, 503))
async def state_at(
    thread: ThreadPath, checkpoint_id: str, caller: FromCaller, *, subgraphs: bool = False, select: _Select = None
) -> JSONResponse:
    """Get the state at a checkpoint; of an unknown one an empty state."""
    found = await _state(caller, thread, {"checkpoint_id": checkpoint_id}, subgraphs=subgraphs)
    return JSONResponse(select_keys(found, select))


@router.post("/threads/{thread}/state/checkpoint", responses=documented(401, 404, 422, 503))
async def state_of(thread: ThreadPath, body: StateBody, caller: FromCaller) -> JSONResponse:
    """Get the state at a checkpoint, also of a subgraph."""
    found = await _state(caller, thread, body.checkpoint.named(), subgraphs=body.subgraphs)
    return JSONResponse(select_keys(found, body.select))


@router.post("/threads/{thread}/state", responses=documented(400, 401, 404, 409, 422, 503))
async def update_state(thread: ThreadPath, body: UpdateBody, caller: FromCaller) -> JSONResponse:
    """Write to the state of a thread that no run uses."""
    row = (await read_thread(caller, thread)).row
    graph = row.graph or row.metadata.get("graph_id")
    if not isinstance(graph, str):
        detail = "no run has used the thread yet, and its metadata has no graph_id: its graph is unknown"
        raise ProblemError(400, "no_graph", detail)
    checkpoint = body.checkpoint.named() if body.checkpoint else {}
    if body.checkpoint_id:
        checkpoint["checkpoint_id"] = body.checkpoint_id
    try:
        written = await caller.client.threads.update(
            thread, body.values, graph=graph, as_node=body.as_node, checkpoint=checkpoint or None
        )
    except InvalidInputError as error:
        raise ProblemError(400, "invalid_update", str(error)) from None
    return JSONResponse(written)


@router.post("/threads/{thread}/history", responses=documented(401, 404, 422, 503))
async def history(thread: ThreadPath, body: HistoryBody, caller: FromCaller) -> JSONResponse:
    """List the states of a thread, the newest first."""
    return await _history(caller, thread, body)


@router.get("/threads/{thread}/history", responses=documented(401, 404, 422, 503))
async def history_by_query(
    thread: ThreadPath,
    caller: FromCaller,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 10,
    before: str | None = None,
) -> JSONResponse:
    """List the states of a thread, the newest first."""
    return await _history(caller, thread, HistoryBody(limit=limit, before=before))


async def _state(caller: Caller, thread_id: str, checkpoint: Checkpoint | None, *, subgraphs: bool) -> dict[str, Any]:
    graph = (await read_thread(caller, thread_id)).row.graph
    if graph is None:
        return _EMPTY
    found = await caller.client.threads.state(thread_id, graph=graph, checkpoint=checkpoint, subgraphs=subgraphs)
    if found["checkpoint"] is None and checkpoint and "checkpoint_id" in checkpoint:
        id_ = checkpoint["checkpoint_id"]
        return {**found, "checkpoint": {"checkpoint_id": id_, "thread_id": thread_id}, "checkpoint_id": id_}
    return found


async def _history(caller: Caller, thread_id: str, body: HistoryBody) -> JSONResponse:
    graph = (await read_thread(caller, thread_id)).row.graph
    if graph is None:
        return JSONResponse([])
    before: Any = {"checkpoint_id": body.before} if isinstance(body.before, str) else body.before
    if before and "configurable" in before:
        before = before["configurable"]
    found = await caller.client.threads.history(
        thread_id,
        graph=graph,
        limit=body.limit,
        before=before,
        metadata=body.metadata,
        checkpoint=body.checkpoint.named() if body.checkpoint else None,
    )
    return JSONResponse([select_keys(one, body.select) for one in found])

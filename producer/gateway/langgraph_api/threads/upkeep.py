"""What becomes of whole threads: copies, deletion, what is kept of them."""

from collections.abc import Sequence

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from langgraph_rq.producer.gateway.dependencies import FromCaller
from langgraph_rq.producer.gateway.langgraph_api.ids import new_id
from langgraph_rq.producer.gateway.langgraph_api.objects import (
    Thread,
    answer_threads,
    cancel_runs,
    forget_threads,
    open_runs,
    read_thread,
    read_threads,
)
from langgraph_rq.producer.gateway.langgraph_api.texts import TextRoute
from langgraph_rq.producer.gateway.langgraph_api.threads.bodies import PruneBody
from langgraph_rq.producer.gateway.langgraph_api.threads.routes import ThreadPath
from langgraph_rq.producer.gateway.problems import ProblemError, documented
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ThreadBusyError, UnknownGraphError
from langgraph_rq.shared.tasks import thread_key
from langgraph_rq.shared.threads.rows import copy_call

router = APIRouter(route_class=TextRoute, tags=["langgraph: threads"])


@router.delete("/threads/{thread}", status_code=204, responses=documented(401, 404, 503))
async def delete(thread: ThreadPath, caller: FromCaller) -> Response:
    """Cancel a thread's runs, and delete it with its state."""
    found = await read_thread(caller, thread)
    await cancel_runs(caller, await open_runs(caller, thread))
    if found.row.graph and found.row.is_used:
        try:
            await caller.client.threads.delete(thread, graph=found.row.graph, force=True)
        except UnknownGraphError as error:
            raise ProblemError(503, "no_worker", f"{error}: only a worker deletes what is kept of its state") from None
    await forget_threads(caller, [thread])
    return Response(status_code=204)


@router.post("/threads/{thread}/copy", responses=documented(401, 404, 409, 422, 503))
async def copy(thread: ThreadPath, caller: FromCaller) -> JSONResponse:
    """Copy a thread that no run uses: its metadata and all of its states, without its runs."""
    found = await read_thread(caller, thread)
    _refuse_busy([found])
    await caller.admit(None)
    copied = new_id()
    if found.row.graph and found.row.is_used:
        await caller.client.threads.copy(thread, copied, graph=found.row.graph)
    else:
        source, target = thread_key(thread, caller.tenant), thread_key(copied, caller.tenant)
        await scripts.run(caller.client.redis, copy_call(source, target, caller.tenant))
    return JSONResponse((await answer_threads(caller, [await read_thread(caller, copied)]))[0])


@router.post("/threads/prune", responses=documented(401, 409, 422, 503))
async def prune(body: PruneBody, caller: FromCaller) -> JSONResponse:
    """Delete threads that no run uses, or all of their states but the newest; unknown ones are not counted."""
    threads = [one for one in await read_threads(caller, list(dict.fromkeys(body.thread_ids))) if one]
    _refuse_busy(threads)
    by_graph: dict[str, list[str]] = {}
    for thread in threads:
        by_graph.setdefault(thread.row.graph if thread.row.graph and thread.row.is_used else "", []).append(
            thread.thread_id
        )
    pruned = by_graph.pop("", [])
    if body.strategy == "delete":
        await forget_threads(caller, pruned)
    for graph, ids in by_graph.items():
        done = await caller.client.threads.prune(ids, strategy=body.strategy, graph=graph)
        if body.strategy == "delete":
            await forget_threads(caller, done)
        pruned += done
    for thread in threads:
        if thread.thread_id not in pruned:  # a run of it has begun meanwhile
            raise ThreadBusyError(thread.thread_id)
    return JSONResponse({"pruned_count": len(pruned)})


@router.get("/threads/{thread}/storage", responses=documented(401, 404, 422, 503))
async def storage(thread: ThreadPath, caller: FromCaller) -> JSONResponse:
    """Measure the bytes that a thread's checkpoints take in Redis."""
    found = await read_thread(caller, thread)
    if not (found.row.graph and found.row.is_used):
        nothing = {"count": 0, "bytes": 0}
        sections = {"checkpoints": nothing, "channel_values": nothing | {"by_channel": {}}, "pending_writes": nothing}
        return JSONResponse({"thread_id": thread, "total_bytes": 0, **sections})
    return JSONResponse(await caller.client.threads.storage(thread, graph=found.row.graph))


def _refuse_busy(threads: Sequence[Thread]) -> None:
    for thread in threads:
        if thread.is_busy:
            raise ThreadBusyError(thread.thread_id)

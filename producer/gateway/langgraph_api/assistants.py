"""Assistants: one for each graph that workers serve. Others, with a configuration of their own, are not kept yet."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse
from pydantic import Field

from langgraph_rq.producer.gateway.dependencies import Caller, FromCaller
from langgraph_rq.producer.gateway.problems import ProblemError, documented
from langgraph_rq.producer.gateway.tasks.bodies import Body, StrictRoute
from langgraph_rq.shared.errors import Violation
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS, GraphDescription, read_times
from langgraph_rq.shared.strict_json import kind

_NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
"""In which LangGraph makes the id of a graph's own assistant from its name."""

_SYSTEM = {"created_by": "system"}

_Key = Literal[
    "assistant_id", "graph_id", "config", "context", "metadata", "name", "description", "version", "created_at",
    "updated_at"
]  # fmt: skip

router = APIRouter(route_class=StrictRoute, tags=["langgraph: assistants"])

AssistantPath = Annotated[str, Path(description="An assistant's id, or a graph's name.", max_length=256)]


class CountBody(Body):
    """Which assistants: all if it says nothing."""

    metadata: dict[str, Any] | None = Field(None, description="What their metadata contains.")
    graph_id: str | None = None
    name: str | None = Field(None, description="What their name contains, in any case.")


class SearchBody(CountBody):
    """Which assistants, in what order, and how many."""

    limit: int = Field(10, ge=1, le=1_000)
    offset: int = Field(0, ge=0)
    sort_by: Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"] | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[_Key] | None = Field(None, description="These keys only.")


@dataclass(frozen=True, slots=True)
class _Assistant:
    graph: str
    created: datetime
    updated: datetime
    record: bytes

    def answer(self) -> dict[str, Any]:
        return {
            "assistant_id": assistant_id(self.graph),
            "graph_id": self.graph,
            "config": {},
            "context": {},
            "metadata": _SYSTEM,
            "name": self.graph,
            "description": None,
            "version": 1,
            "created_at": self.created.isoformat(timespec="microseconds"),
            "updated_at": self.updated.isoformat(timespec="microseconds"),
        }

    def describe(self) -> GraphDescription:
        description = GraphDescription.read(self.record)
        if description is None:
            raise ProblemError(
                404, "not_described", f"no worker has described graph {self.graph} in this version's form"
            )
        return description


@lru_cache(1_000)
def assistant_id(graph: str) -> str:
    """Return the id of a graph's own assistant."""
    return str(uuid5(_NAMESPACE, graph))


@router.post("/assistants/search", responses=documented(401, 422, 503))
async def search(body: SearchBody, caller: FromCaller) -> JSONResponse:
    """List assistants, the newest first."""
    found = [one.answer() for one in _matching(await _all(caller), body)]
    found.sort(key=lambda one: str(one[body.sort_by or "created_at"]), reverse=body.sort_order != "asc")
    page = found[body.offset : body.offset + body.limit]
    headers = {"X-Pagination-Total": str(body.offset + min(len(found[body.offset :]), body.limit + 1))}
    if len(found) > body.offset + body.limit:
        headers["X-Pagination-Next"] = str(body.offset + body.limit)
    if body.select:
        page = [{key: one[key] for key in body.select} for one in page]
    return JSONResponse(page, headers=headers)


@router.post("/assistants/count", responses=documented(401, 422, 503))
async def count(body: CountBody, caller: FromCaller) -> JSONResponse:
    """Count assistants."""
    return JSONResponse(len(list(_matching(await _all(caller), body))))


@router.get("/assistants/{assistant}", responses=documented(401, 404, 503))
async def get(assistant: AssistantPath, caller: FromCaller) -> JSONResponse:
    """Get an assistant."""
    return JSONResponse((await find(caller, assistant)).answer())


@router.get("/assistants/{assistant}/graph", responses=documented(401, 404, 422, 503))
async def graph(
    assistant: AssistantPath,
    caller: FromCaller,
    xray: Annotated[
        str, Query(description="Open subgraphs: true, or how many levels.", pattern=r"^(true|false|\d{1,3})$")
    ] = "false",
) -> JSONResponse:
    """Draw the graph: its nodes and edges."""
    drawings = (await find(caller, assistant)).describe().drawings
    depth = {"true": len(drawings), "false": 0}.get(xray)
    if not drawings:
        raise ProblemError(404, "not_drawn", "the graph cannot be drawn: its edges name no nodes")
    return JSONResponse(drawings[min(int(xray) if depth is None else depth, len(drawings) - 1)])


@router.get("/assistants/{assistant}/schemas", responses=documented(401, 404, 503))
async def schemas(assistant: AssistantPath, caller: FromCaller) -> JSONResponse:
    """Get the JSON schemas of what the graph takes, holds and returns."""
    found = await find(caller, assistant)
    return JSONResponse({"graph_id": found.graph, **found.describe().schemas})


@router.get("/assistants/{assistant}/subgraphs", responses=documented(401, 404, 422, 503))
async def subgraphs(assistant: AssistantPath, caller: FromCaller, *, recurse: bool = False) -> JSONResponse:
    """Get the schemas of subgraphs: by the names of their nodes, or with `recurse` of all by their paths."""
    found = (await find(caller, assistant)).describe().subgraphs
    return JSONResponse({path: one for path, one in found.items() if recurse or "|" not in path})


@router.get("/assistants/{assistant}/subgraphs/{namespace}", responses=documented(401, 404, 422, 503))
async def subgraph(
    assistant: AssistantPath, namespace: str, caller: FromCaller, *, recurse: bool = False
) -> JSONResponse:
    """Get the schemas of one subgraph, or with `recurse` also of those inside it."""
    found = (await find(caller, assistant)).describe().subgraphs
    inside = f"{namespace}|"
    return JSONResponse(
        {path: one for path, one in found.items() if path == namespace or (recurse and path.startswith(inside))}
    )


def _refuse_writes() -> None:
    reason = "every graph has one assistant and no other is kept yet: configure runs themselves"

    async def refuse() -> JSONResponse:
        raise ProblemError(501, "not_implemented", reason)

    for method, path in (
        ("POST", "/assistants"),
        ("PATCH", "/assistants/{assistant}"),
        ("DELETE", "/assistants/{assistant}"),
        ("POST", "/assistants/{assistant}/versions"),
        ("POST", "/assistants/{assistant}/latest"),
    ):
        router.add_api_route(path, refuse, methods=[method], include_in_schema=False)


_refuse_writes()


async def find(caller: Caller, assistant: str) -> _Assistant:
    """Find an assistant by its id or its graph's name.

    Raises:
        ProblemError: 404, no worker has served such a graph in the last day.
    """
    redis: Any = caller.client.redis
    graph, record = assistant, await redis.hget(GRAPH_DESCRIPTIONS, assistant)
    if record is None:  # not the name of a graph
        names = [name.decode(errors="replace") for name in await redis.hkeys(GRAPH_DESCRIPTIONS)]
        graph = next((name for name in names if assistant_id(name) == assistant), "")
        record = await redis.hget(GRAPH_DESCRIPTIONS, graph) if graph else None
    if record and (times := read_times(record)):
        return _Assistant(graph, *times, record)
    known = ", ".join([one.graph for one in await _all(caller)][:20]) or "none is known: start a worker that serves it"
    expected = f"a graph's name or the id of its assistant ({known})"
    raise ProblemError(404, "unknown_assistant", str(Violation("assistant_id", expected, kind(assistant))))


async def _all(caller: Caller) -> list[_Assistant]:
    """Read the assistants of all graphs that workers described in the last day."""
    found = []
    records: dict[Any, Any] = await caller.client.redis.hgetall(GRAPH_DESCRIPTIONS)
    for name, record in records.items():
        if times := read_times(record):
            found.append(_Assistant(name.decode(errors="replace"), *times, record))
    return found


def _matching(assistants: Iterable[_Assistant], body: CountBody) -> Iterable[_Assistant]:
    for one in assistants:
        is_graph = body.graph_id in (None, one.graph)
        is_named = body.name is None or body.name.lower() in one.graph.lower()
        if is_graph and is_named and (body.metadata or {}).items() <= _SYSTEM.items():
            yield one

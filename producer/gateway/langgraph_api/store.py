"""The store: items that graphs keep over threads, and the namespaces that they are in. Workers read and write them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from langgraph_rq.producer.client.store import MOST_ITEMS
from langgraph_rq.producer.gateway.dependencies import FromCaller
from langgraph_rq.producer.gateway.langgraph_api.texts import TextRoute
from langgraph_rq.producer.gateway.problems import ProblemError, documented
from langgraph_rq.producer.gateway.tasks.bodies import Body

_LABELS = Annotated[list[str], Field(description="Labels without periods.", max_length=100)]

router = APIRouter(route_class=TextRoute, tags=["langgraph: store"])


class NameBody(Body):
    """Names an item."""

    namespace: _LABELS
    key: str = Field(min_length=1)


class PutBody(NameBody):
    """An item."""

    value: dict[str, Any]
    index: Literal[False] | list[str] | None = Field(
        None, description="Paths of what is embedded; false: nothing; null: as langgraph.json says."
    )
    ttl: float | None = Field(None, gt=0, description="Minutes after which it is deleted.")


class SearchItemsBody(Body):
    """Which items, and how many."""

    namespace_prefix: _LABELS | None = Field(None, description="Null: all of them.")
    filter: dict[str, Any] | None = Field(None, description='Values of fields, or {"age": {"$gte": 21}}.')
    limit: int = Field(10, ge=1, le=MOST_ITEMS)
    offset: int = Field(0, ge=0)
    query: str | None = Field(None, description="Search by meaning, where langgraph.json has a `store.index`.")
    refresh_ttl: bool | None = Field(None, description="Whether their time to live begins anew.")


class NamespacesBody(Body):
    """Which namespaces, and how many."""

    prefix: _LABELS | None = Field(None, description="What they begin with; `*` stands for any label.")
    suffix: _LABELS | None = Field(None, description="What they end with, likewise.")
    max_depth: int | None = Field(None, ge=1, description="Cut them to so many labels.")
    limit: int = Field(100, ge=1, le=MOST_ITEMS)
    offset: int = Field(0, ge=0)


@router.put("/store/items", status_code=204, responses=documented(400, 401, 422, 503))
async def put(body: PutBody, caller: FromCaller) -> Response:
    """Write an item as a whole."""
    _refuse_reserved(body.namespace)
    await caller.admit(None)
    await caller.client.store.put(body.namespace, body.key, body.value, index=body.index, ttl=body.ttl)
    return Response(status_code=204)


@router.get("/store/items", responses=documented(400, 401, 422, 503))
async def get(
    caller: FromCaller,
    namespace: Annotated[str, Query(description="Its labels, joined by periods.")] = "",
    key: str = "",
    *,
    refresh_ttl: Annotated[bool | None, Query(description="Whether its time to live begins anew.")] = None,
) -> JSONResponse:
    """Get an item; null if there is none."""
    if not key:
        raise ProblemError(400, "no_key", "key: expected the key of an item, got: none")
    labels = namespace.split(".")
    _refuse_reserved(labels)
    return JSONResponse(await caller.client.store.get(labels, key, refresh_ttl=refresh_ttl))


@router.delete("/store/items", status_code=204, responses=documented(400, 401, 422, 503))
async def delete(body: NameBody, caller: FromCaller) -> Response:
    """Delete an item, if there is one."""
    _refuse_reserved(body.namespace)
    await caller.admit(None)
    await caller.client.store.delete(body.namespace, body.key)
    return Response(status_code=204)


@router.post("/store/items/search", responses=documented(401, 422, 503))
async def search(body: SearchItemsBody, caller: FromCaller) -> JSONResponse:
    """Search below a namespace; the items that were put last come first."""
    fields = body.model_dump(exclude={"namespace_prefix"})
    found = await caller.client.store.search(body.namespace_prefix or [], **fields)
    return JSONResponse({"items": found})


@router.post("/store/namespaces", responses=documented(401, 422, 503))
async def namespaces(body: NamespacesBody, caller: FromCaller) -> JSONResponse:
    """List namespaces that have items."""
    return JSONResponse({"namespaces": await caller.client.store.list_namespaces(**body.model_dump())})


def _refuse_reserved(namespace: list[str]) -> None:
    """Refuse what LangGraph's server refuses with 400; the client refuses the rest."""
    if not namespace or namespace[0] == "langgraph":
        expected = "namespace: expected labels of which the first is not langgraph"
        raise ProblemError(400, "reserved_namespace", f"{expected}, got: {'.'.join(namespace) or 'none'}"[:200])

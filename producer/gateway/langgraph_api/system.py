"""Whether the server answers, and what it can: asked by clients before anything else, without a key."""

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError

from langgraph_rq.producer.gateway.dependencies import FromGateway
from langgraph_rq.producer.gateway.query import KnownQueryRoute

router = APIRouter(route_class=KnownQueryRoute, tags=["langgraph: system"])

_INFO: dict[str, Any] = {
    "version": version("langgraph-rq"),
    "flags": {"assistants": True, "crons": False, "langsmith": False},
    "host": {"kind": "self-hosted"},
}


@router.head("/ok", include_in_schema=False)
@router.get("/ok")
async def ok(
    gateway: FromGateway, check_db: Annotated[bool, Query(description="Ask Redis too.")] = False
) -> JSONResponse:
    """Answer; with `check_db` 500 when Redis does not."""
    services = {}
    if check_db:
        try:
            await gateway.client.redis.ping()
            services["redis"] = "ok"
        except (RedisError, OSError):
            return JSONResponse({"ok": False, "services": {"redis": "unreachable"}}, 500)
    return JSONResponse({"ok": True, "services": services})


@router.get("/info")
async def info() -> JSONResponse:
    """Say the version, and which parts of the API are served."""
    return JSONResponse(_INFO)

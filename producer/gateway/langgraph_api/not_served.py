"""Routes of LangGraph Server that are refused with the reason: 501, which clients show."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from langgraph_rq.producer.gateway.problems import ProblemError

_CRONS = "crons are not kept: submit runs with after_seconds, or from a scheduler of yours"
_EVENTS = "protocol v3 is not spoken: use runs.stream, or useStream of the SDK's react part"
_ROUTES = (
    ("POST", "/threads/{thread}/runs/crons", _CRONS),
    ("POST", "/runs/crons", _CRONS),
    ("POST", "/runs/crons/search", _CRONS),
    ("POST", "/runs/crons/count", _CRONS),
    ("GET", "/runs/crons/{cron}", _CRONS),
    ("PATCH", "/runs/crons/{cron}", _CRONS),
    ("DELETE", "/runs/crons/{cron}", _CRONS),
    ("POST", "/threads/{thread}/commands", _EVENTS),
    ("POST", "/threads/{thread}/stream/events", _EVENTS),
)

router = APIRouter()


def _refuser(reason: str) -> Callable[[], Awaitable[JSONResponse]]:
    async def refuse() -> JSONResponse:
        raise ProblemError(501, "not_implemented", reason)

    return refuse


for _method, _path, _reason in _ROUTES:
    router.add_api_route(_path, _refuser(_reason), methods=[_method], include_in_schema=False)

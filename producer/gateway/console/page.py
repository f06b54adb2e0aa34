"""The page for people at `/` and the description of the API at `/docs`: files, served as they are."""

from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.producer.gateway.query import KnownQueryRoute

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FILES = {
    entry.name: (entry.read_bytes(), _TYPES[entry.name.rpartition(".")[2]])
    for folder in ("page", "swagger")
    for entry in files("langgraph_rq").joinpath("producer/gateway/console", folder).iterdir()
    if entry.name.rpartition(".")[2] in _TYPES
}

router = APIRouter(route_class=KnownQueryRoute, include_in_schema=False)


@router.get("/")
async def index() -> Response:
    """Show the page."""
    return await part("index.html")


@router.get("/docs")
async def docs() -> Response:
    """Show the description of the API."""
    return await part("docs.html")


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Describe the API for programs."""
    return JSONResponse(request.app.openapi())


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """Send a file of the pages."""
    if name not in _FILES:
        raise ProblemError(404, "not_found", "there is no such file")
    content, kind = _FILES[name]
    return Response(content, media_type=kind, headers=_HEADERS)

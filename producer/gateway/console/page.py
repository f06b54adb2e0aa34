"""The page for people at `/` and the description of the API at `/docs`: files, served as they are."""

import gzip
from importlib.resources import files
from importlib.resources.abc import Traversable

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


def _kind(entry: Traversable) -> str | None:
    return _TYPES.get(entry.name.removesuffix(".gz").rpartition(".")[2])


_FILES = {
    entry.name: (entry.read_bytes(), kind)
    for folder in ("page", "swagger")
    for entry in files("langgraph_rq").joinpath("producer/gateway/console", folder).iterdir()
    if (kind := _kind(entry))
}

router = APIRouter(route_class=KnownQueryRoute, include_in_schema=False)


@router.get("/")
async def index(request: Request) -> Response:
    """Show the page."""
    return await part("index.html", request)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Show the description of the API."""
    return await part("docs.html", request)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """Describe the API for programs."""
    return JSONResponse(request.app.openapi())


@router.get("/page/{name}")
async def part(name: str, request: Request) -> Response:
    """Send a file of the pages, compressed if that is how it is shipped and the browser takes it."""
    if found := _FILES.get(name):
        content, kind = found
        return Response(content, media_type=kind, headers=_HEADERS)
    if found := _FILES.get(f"{name}.gz"):
        content, kind = found
        headers = {**_HEADERS, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return Response(content, media_type=kind, headers={**headers, "Content-Encoding": "gzip"})
        return Response(gzip.decompress(content), media_type=kind, headers=headers)
    raise ProblemError(404, "not_found", "there is no such file")

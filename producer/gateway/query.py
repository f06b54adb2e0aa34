"""Queries without parameters that the route does not have: a misspelt one would be ignored in silence."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from langgraph_rq.producer.gateway.problems import documented, invalid
from langgraph_rq.shared.errors import UnknownField
from langgraph_rq.shared.strict_json import kind


class KnownQueryRoute(APIRoute):
    """A route that refuses unknown query parameters, and is documented to."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["responses"] = documented(422) | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Wrap FastAPI's own handler."""
        handle = super().get_route_handler()
        known = sorted(_names(self.dependant))

        async def check(request: Request) -> Response:
            unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
            if unknown:
                raise invalid(*(_violation(name, request.query_params[name], known) for name in unknown))
            response: Response = await handle(request)
            return response

        return check


def _names(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.query_params}
    return own.union(*map(_names, dependant.dependencies))


def _violation(name: str, value: str, known: list[str]) -> UnknownField:
    close = get_close_matches(name, known, n=1)
    return UnknownField(name[:60], ", ".join(known) or "none", kind(value), close[0] if close else None)

"""Authentication: an API key stands for a tenant, to which only its own tasks, threads and users exist."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from langgraph_rq.producer.gateway.admission.api_keys import Keyring
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.tasks import DEFAULT_TENANT
from langgraph_rq.shared.telemetry.audit import actor

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Where a gateway without keys listens, and the names to which it answers."""

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/favicon.ico"})
"""Paths that need no key; they reveal nothing about any tenant."""


class Access:
    """Middleware that admits a request with its tenant, before anything else of it is read.

    Args:
        keyring: None admits every request, as the default tenant.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring | None) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        if scope["type"] == "http":
            if self._keyring is None and not self._is_ours(scope):
                await ProblemError(
                    421, "foreign_host", f"without keys this gateway answers to {', '.join(LOOPBACK)} only"
                ).response()(scope, receive, send)
                return
            tenant = self._tenant(scope)
            if tenant is None and not is_open(scope["path"]):
                problem = ProblemError(
                    401,
                    "unauthorized",
                    "expected a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await problem.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["tenant"] = tenant
            if self._keyring and tenant:
                actor.set(f"API key of {tenant}")
        await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        """Whether the host is a loopback name: without keys a web page could reach us by DNS rebinding."""
        return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname in LOOPBACK

    def _tenant(self, scope: Scope) -> str | None:
        if self._keyring is None:
            return DEFAULT_TENANT
        headers = Headers(scope=scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return self._keyring.tenant_of(key) if key else None


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith("/page/")

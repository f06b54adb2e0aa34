"""Authentication: an API key stands for a tenant, to which only its own tasks, threads and users exist."""

from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from langgraph_rq.producer.gateway.admission.api_keys import Keyring
from langgraph_rq.producer.gateway.admission.grants import Grant
from langgraph_rq.producer.gateway.admission.refused_keys import RefusedKeys, unauthorized
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.telemetry.audit import actor

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Where a gateway without keys listens, and the names to which it answers."""

METRICS_PATH = "/metrics"

OPEN_PATHS = frozenset(
    {"/", "/health", "/ready", METRICS_PATH, "/docs", "/openapi.json", "/favicon.ico", "/ok", "/info"}
)
"""Paths that need no key; they reveal nothing about any tenant."""


class Access:
    """Middleware that admits a request with its tenant, before anything else of it is read.

    Args:
        keyring: None admits every request, as the default tenant.
        own: What the default tenant may do without a key.
        refused: Counts and delays requests with a wrong key.
        metrics_key: What /metrics asks for; None: nothing.
    """

    def __init__(
        self, app: ASGIApp, keyring: Keyring | None, own: Grant, refused: RefusedKeys, metrics_key: str | None
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._own = own
        self._refused = refused
        self._metrics_key = metrics_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 421, or pass the request on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refusal = self._refuse_host(headers) or await self._admit(scope, _key(headers))
            if refusal:
                await refusal.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refuse_host(self, headers: Headers) -> ProblemError | None:
        """Refuse a host that is none and, without keys, one by which a web page could reach us: DNS rebinding."""
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:
            return ProblemError(421, "foreign_host", "expected a host name or an address as `Host`")
        if self._keyring or host in LOOPBACK:
            return None
        return ProblemError(421, "foreign_host", f"without keys this gateway answers to {', '.join(LOOPBACK)} only")

    async def _admit(self, scope: Scope, key: str) -> ProblemError | None:
        """Note the tenant; answers the refusal of a request that needs a key and has no valid one."""
        grant = self._grant(key)
        is_allowed = grant is not None or is_open(scope["path"])
        if scope["path"] == METRICS_PATH and self._metrics_key:
            is_allowed = compare_digest(key.encode(), self._metrics_key.encode())
        if not is_allowed:
            client = scope.get("client")
            return await self._refused.refuse(client[0] if client else "", scope["path"]) if key else unauthorized()
        scope.setdefault("state", {})["grant"] = grant
        if self._keyring and grant:
            actor.set(f"API key of {grant.tenant}")
        return None

    def _grant(self, key: str) -> Grant | None:
        if self._keyring is None:
            return self._own
        return self._keyring.grant_of(key) if key else None


def _key(headers: Headers) -> str:
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    return bearer.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return path in OPEN_PATHS or path.startswith("/page/")

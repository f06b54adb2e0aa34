"""The application: the parts of a gateway process, and the order in which a request passes them.

A request's key is checked before anything else of it is read, then its size, then its JSON, then its fields; what is
left is put to Redis.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from langgraph_rq.producer.client.async_client import AsyncClient
from langgraph_rq.producer.gateway import openapi, problems
from langgraph_rq.producer.gateway.admission.access import LOOPBACK, Access
from langgraph_rq.producer.gateway.admission.api_keys import Keyring
from langgraph_rq.producer.gateway.admission.body_limit import BodyLimit
from langgraph_rq.producer.gateway.admission.grants import default_grant
from langgraph_rq.producer.gateway.admission.limits import Limits
from langgraph_rq.producer.gateway.admission.rates import parse_rate
from langgraph_rq.producer.gateway.admission.refused_keys import RefusedKeys
from langgraph_rq.producer.gateway.admission.streams import Streams
from langgraph_rq.producer.gateway.answer_headers import AnswerHeaders
from langgraph_rq.producer.gateway.console import overview, page
from langgraph_rq.producer.gateway.dependencies import Gateway
from langgraph_rq.producer.gateway.langgraph_api import assistants, not_served, store, system
from langgraph_rq.producer.gateway.langgraph_api.known_graphs import KnownGraphs
from langgraph_rq.producer.gateway.langgraph_api.runs import routes as runs
from langgraph_rq.producer.gateway.langgraph_api.threads import routes as threads
from langgraph_rq.producer.gateway.langgraph_api.threads import stream as thread_stream
from langgraph_rq.producer.gateway.langgraph_api.threads import upkeep as thread_upkeep
from langgraph_rq.producer.gateway.probes import health
from langgraph_rq.producer.gateway.probes.model_ping import ModelPing
from langgraph_rq.producer.gateway.tasks import classic, routes, stream
from langgraph_rq.producer.gateway.trace_context import TraceContext
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import (
    BreakerSettings,
    BudgetSettings,
    CallSettings,
    CorsSettings,
    GatewaySettings,
    ModelSettings,
    QueueSettings,
    TaskSettings,
    TenantSettings,
    load,
)
from langgraph_rq.shared.tasks import DEFAULT_TENANT

_ABOUT = (
    "Submit tasks to a fleet of LangGraph workers, follow them, and read their results. "
    "Every error is a problem document (RFC 9457)."
)

_EXPOSED = ("Content-Location", "Location", "Retry-After", "X-Pagination-Next", "X-Pagination-Total")
"""Headers of answers that a page of another origin may read."""


def create_app(settings: GatewaySettings, redis_url: str | None = None) -> FastAPI:
    """Make the application; its connections are opened when it starts and closed when it ends.

    Raises:
        SettingsError: no keys without LGRQ_GATEWAY_WITHOUT_KEYS, or a setting that cannot be used.
    """
    tenants = load(TenantSettings)
    keyring = _keyring(settings, tenants)
    own = default_grant(DEFAULT_TENANT, tenants)
    rate = parse_rate(settings.rate) if settings.rate else None
    refused = RefusedKeys()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        calls, model = load(CallSettings), load(ModelSettings)
        async with AsyncClient(redis_url) as client:
            app.state.gateway = Gateway(
                settings=settings,
                client=client,
                limits=Limits(client.batcher, rate, settings.open_tasks),
                refused=refused,
                streams=Streams(settings.streams, settings.tenant_streams if keyring else None),
                known_graphs=KnownGraphs(),
                breaker=load(BreakerSettings).limits(calls.timeout_s),
                budget=load(BudgetSettings).limits(),
                queues=tuple(load(QueueSettings).queues()),
                ping=ModelPing(
                    model.openai_base_url, model.openai_api_key.get_secret_value() if model.openai_api_key else None
                ),
            )
            yield

    limits = load(TaskSettings).limits()
    metrics_key = settings.metrics_key.get_secret_value() if settings.metrics_key else None
    origins = load(CorsSettings).list_origins(is_keyless=keyring is None)
    middleware = [
        *([_cors(origins)] if origins else []),
        Middleware(TraceContext),
        Middleware(AnswerHeaders),
        Middleware(Access, keyring=keyring, own=own, refused=refused, metrics_key=metrics_key),
        Middleware(BodyLimit, limit_bytes=limits.text_bytes, limit_s=settings.body_s),
    ]
    app = FastAPI(
        title="langgraph-rq",
        version="1",
        description=_ABOUT,
        lifespan=lifespan,
        middleware=middleware,
        docs_url=None,  # page.py has it: FastAPI's own loads a script from elsewhere
        redoc_url=None,
        openapi_url=None,  # page.py has it too: FastAPI's own knows no query
    )
    # Not included as routers, which would match the path of each request twice; those of most requests come first.
    parts = (
        *(runs, routes, stream, threads, thread_upkeep, thread_stream, store, assistants, system),
        *(classic, overview, health, page, not_served),
    )
    app.router.routes.extend(route for part in parts for route in part.router.routes)
    problems.install(app, app.routes)
    openapi.document(app, limits, has_keys=keyring is not None)
    return app


def _cors(origins: list[str]) -> Middleware:
    """Let pages of these origins call. Cookies are none of ours, so none are allowed."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_private_network=True,
        expose_headers=_EXPOSED,
    )


def _keyring(settings: GatewaySettings, tenants: TenantSettings) -> Keyring | None:
    if settings.keys:
        return Keyring.parse(settings.keys.get_secret_value(), tenants)
    if not settings.without_keys:
        raise SettingsError(
            "LGRQ_GATEWAY_KEYS_FILE: expected a file of API keys (`langgraph-producer new-key TENANT` makes one), "
            "got none; LGRQ_GATEWAY_WITHOUT_KEYS=true serves this machine only, without keys"
        )
    if settings.host not in LOOPBACK:
        raise SettingsError(f"LGRQ_GATEWAY_HOST: expected {' or '.join(LOOPBACK)} without keys, got: {settings.host}")
    return None

"""Open what all tasks of one process share: connections, graphs, checkpoints, store and guards."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.cache.memory import InMemoryCache
from redis.asyncio import Redis

from langgraph_rq.shared.announcements.state_kept import StateKept
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.connections.background import end
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import (
    BreakerSettings,
    BudgetSettings,
    CallSettings,
    ModelSettings,
    PaceSettings,
    QueueSettings,
    RedactionSettings,
    RedisSettings,
    StateSettings,
    TaskSettings,
    TelemetrySettings,
    TenantSettings,
    WorkerSettings,
    load,
)
from langgraph_rq.shared.settings.environment import file_of
from langgraph_rq.shared.telemetry.anchors import AnchorWriter
from langgraph_rq.shared.telemetry.audit import Audit
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans
from langgraph_rq.worker.calls.provider_key import VARIABLE, KeyFile
from langgraph_rq.worker.calls.rate_headers import read_rate_headers
from langgraph_rq.worker.calls.replay import replay_answers
from langgraph_rq.worker.calls.stream_usage import ask_for_usage
from langgraph_rq.worker.graphs.graphs import AnyGraph, load_graphs
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json
from langgraph_rq.worker.graphs.state_types import named_types, state_types, with_subgraphs
from langgraph_rq.worker.guards.fleet_limits import follow_limits, known_paces, obeyed_limits
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.waiting import KeptAttempts
from langgraph_rq.worker.outputs.failures import ErrorDetail
from langgraph_rq.worker.state.backends import Place, open_backend
from langgraph_rq.worker.state.memory import note_memory
from langgraph_rq.worker.state.node_cache import NodeCache, code_version
from langgraph_rq.worker.state.project_state import adopt, open_project_state, unencrypted
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from langgraph_rq.worker.task.events import EventWriter
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.task.run_context import RunContext

BUILT_IN = Path(__file__).with_name("langgraph.json")
"""The configuration that serves the assistant, used where there is no langgraph.json."""

_log = get_logger(__name__)


@asynccontextmanager
async def open_context(
    settings: WorkerSettings,
    redis: RedisSettings,
    *,
    is_fenced: Callable[[], bool] = lambda: False,
    callbacks: Sequence[BaseCallbackHandler] = (),
) -> AsyncIterator[RunContext]:
    """Load the graphs and connect them.

    Args:
        settings: Which graphs, and whether they have checkpoints.
        redis: Where tasks and checkpoints are kept.
        is_fenced: Whether another worker has taken over this one's tasks, so that no checkpoint may be written.
        callbacks: LangChain handlers of every run.

    Raises:
        LanggraphRqError: a graph does not load, a setting is wrong, or Redis cannot be reached.
    """
    if settings.answer_journal and not settings.checkpoints:
        raise SettingsError("LGRQ_ANSWER_JOURNAL: expected LGRQ_CHECKPOINTS=true with it, got: false")
    url = redis.redis_url.get_secret_value()
    checkpoint_url = redis.checkpoint_redis_url.get_secret_value() if redis.checkpoint_redis_url else url
    queue, telemetry, task_settings = load(QueueSettings), load(TelemetrySettings), load(TaskSettings)
    tasks, keys = task_settings.limits(), task_settings.keys()
    audit_key = telemetry.workers_audit_key
    model = load(ModelSettings)
    if config_path(settings) == BUILT_IN and not model.openai_api_key:
        raise SettingsError(
            f"expected a langgraph.json, got: none at {settings.config.absolute()}; name one with --config or "
            "LGRQ_CONFIG, or set OPENAI_API_KEY to serve the assistant that is built in"
        )
    config = read_langgraph_json(config_path(settings), requires_auth=settings.require_auth)
    state = load(StateSettings)
    state_keys = StateKeys.parse(None if state.key is None else state.key.get_secret_value())
    serializer = StateSerializer(state_keys)
    key_file = file_of(VARIABLE)
    _export_key(model)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_async(url, connections=redis.redis_connections))
        saved = await stack.enter_async_context(open_async(checkpoint_url, connections=redis.redis_connections))
        beside = checkpoint_url == url
        if not beside:
            noting = asyncio.create_task(note_memory(saved))
            stack.push_async_callback(end, [noting])
        place = Place(settings, state, saved, checkpoint_url, config, serializer, is_fenced, is_beside_tasks=beside)
        checkpointer, store = await stack.enter_async_context(open_backend(place))
        brought = await open_project_state(config, stack, is_fenced, keeps_checkpoints=settings.checkpoints)
        serializer.allow(named_types(state.types))
        graphs = await stack.enter_async_context(
            load_graphs(
                config,
                checkpointer=brought.checkpointer or checkpointer,
                store=brought.store or store,
                adopt=None if brought.checkpointer else partial(adopt, is_fenced),
                keeps_stores=brought.store is None,
                prepare=partial(_prepare, client, serializer, settings.node_cache_ttl_s),
            )
        )
        stack.enter_context(exported_spans())
        if settings.stream_usage:
            ask_for_usage()
        if settings.answer_journal:
            replay_answers()
        open_state = unencrypted(brought, graphs.by_name.values()) if state.key else []
        for warning in (*brought.warnings, *graphs.warnings, *open_state):
            _log.warning("config.questioned", warning=warning)
        breaker, budget = load(BreakerSettings).limits(load(CallSettings).timeout_s), load(BudgetSettings)
        own = budget.limits()
        limits = await obeyed_limits(client, own, budget.given())
        pacing, kept = load(PaceSettings), KeptAttempts(settings.waiting_attempts)
        guards = Guards(
            client,
            url,
            breaker,
            limits,
            Pricing(budget.rates()),
            paces=pacing.paces(),
            kept=kept,
            tenant_calls=load(TenantSettings).calls,
        )
        if pacing.rate_headers:
            guards.learned_paces = await known_paces(client)
            read_rate_headers()
        stack.push_async_callback(guards.aclose)
        following = asyncio.create_task(follow_limits(client, own, partial(setattr, guards, "budget")))
        stack.push_async_callback(end, [following])
        yield RunContext(
            redis=client,
            events=EventWriter(client),
            graphs=graphs.by_name,
            base_queue=queue.queue,
            times=queue.times(tasks),
            limits=tasks,
            guards=guards,
            keys=keys,
            key_file=KeyFile(key_file) if key_file else None,
            checkpointer=brought.checkpointer or checkpointer,
            state_kept=StateKept(
                "by the project's checkpointer" if brought.checkpointer else place.described(),
                tuple(state_keys.secrets),
            ),
            serializer=serializer,
            answer_journal=settings.answer_journal,
            ledger_ttl_ms=round(settings.thread_ttl_s * 1000),
            store=brought.store or store,
            callbacks=callbacks,
            audit=Audit(audit_key, telemetry.audit_days) if audit_key else None,
            anchors=AnchorWriter(audit_key, telemetry.audit_days) if audit_key else None,
            redaction=Redaction.of(load(RedactionSettings)),
            error_detail=ErrorDetail(settings.error_detail),
            cancel_grace_s=settings.cancel_grace_s,
        )


def config_path(settings: WorkerSettings) -> Path:
    """Return the langgraph.json that was given or found, else `BUILT_IN`."""
    is_given = "config" in settings.model_fields_set or settings.config.exists()
    return settings.config if is_given else BUILT_IN


def _prepare(redis: Redis, serializer: StateSerializer, cache_ttl_s: float, graph: AnyGraph) -> None:
    """Let state hold the types of a graph, also in its caches of node results, which all workers share."""
    serializer.allow(state_types(graph))
    for one in with_subgraphs(graph):
        if isinstance(one.cache, InMemoryCache) and cache_ttl_s:
            one.cache = NodeCache(redis, serializer, (graph.name, one.name, code_version(one)), cache_ttl_s)
        elif one.cache is not None and not isinstance(one.cache, NodeCache):
            one.cache.serde = serializer.at("cache")


def _export_key(provider: ModelSettings) -> None:
    """Export the key and the base URL, which may come from a file, for graphs that make their own ChatOpenAI."""
    if provider.openai_api_key:
        os.environ.setdefault(VARIABLE, provider.openai_api_key.get_secret_value())
    if provider.openai_base_url:
        os.environ.setdefault("OPENAI_BASE_URL", provider.openai_base_url)

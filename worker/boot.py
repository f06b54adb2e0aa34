"""What a worker process does from its start to its end, in order."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.errors import LanggraphRqError, RedisUnavailableError, SettingsError
from shared.logs import configure, get_logger
from shared.pricing import Pricing
from shared.redis_clients import open_async
from shared.settings import (
    BreakerSettings,
    BudgetSettings,
    CallSettings,
    ModelSettings,
    QueueSettings,
    RedisSettings,
    TaskSettings,
    WorkerSettings,
    load,
    mask_url,
)
from worker.checkpoints import Checkpointer
from worker.graph_worker import GraphWorker
from worker.graphs import load_graphs
from worker.guards import Guards
from worker.langgraph_json import read_langgraph_json
from worker.run import RunContext
from worker.store import open_store

BUILT_IN = Path(__file__).with_name("langgraph.json")
"""Serves the assistant where there is no langgraph.json."""

_NODE_THREAD = "node"

_log = get_logger(__name__)


def boot(worker: WorkerSettings, redis: RedisSettings, queues: Sequence[str], *, burst: bool) -> int:
    """Serve in this process until asked to end; answers the exit code."""
    configure(worker.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            _run_to_the_end(runner.get_loop(), partial(serve, worker, redis, queues, burst=burst))
    except LanggraphRqError as error:
        click.echo(f"error: {error}", err=True)
        return 3 if isinstance(error, RedisUnavailableError) else 2
    _leave_abandoned_threads()
    return 0


async def serve(settings: WorkerSettings, redis: RedisSettings, queues: Sequence[str], *, burst: bool) -> None:
    """Check Redis, load the graphs, register, and work until asked to end."""
    url = redis.redis_url.get_secret_value()
    checkpoint_url = redis.checkpoint_redis_url.get_secret_value() if redis.checkpoint_redis_url else url
    queue, tasks = load(QueueSettings), load(TaskSettings)
    config = read_langgraph_json(_config(settings))
    _export_key(load(ModelSettings))
    # Sync nodes run in the loop's default executor, which has six threads on two cores unless told otherwise.
    nodes = ThreadPoolExecutor(settings.worker_concurrency, thread_name_prefix=_NODE_THREAD)
    asyncio.get_running_loop().set_default_executor(nodes)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_async(url, connections=redis.redis_connections))
        await _check(client, url, accept_unsafe=redis.unsafe_redis)
        checkpointer = store = None
        if settings.checkpoints:
            saved = await stack.enter_async_context(open_async(checkpoint_url, connections=redis.redis_connections))
            checkpointer = Checkpointer(saved, ttl_s=settings.thread_ttl_s, is_fenced=lambda: worker.is_fenced)
            await checkpointer.asetup()
            store = await stack.enter_async_context(open_store(saved, config))
        graphs = await stack.enter_async_context(load_graphs(config, checkpointer=checkpointer, store=store))
        for warning in graphs.warnings:
            _log.warning("config.questioned", warning=warning)
        calls, budget = load(CallSettings), load(BudgetSettings)
        breaker = load(BreakerSettings).limits(calls.timeout_s)
        guards = Guards(client, url, breaker, budget.limits(), Pricing(budget.rates()))
        stack.push_async_callback(guards.aclose)
        context = RunContext(
            redis=client,
            worker="",
            graphs=graphs.by_name,
            base_queue=queue.queue,
            times=queue.times(tasks.input_bytes),
            limits=tasks.limits(),
            guards=guards,
            result_bytes=tasks.result_bytes,
            durable=settings.checkpoints,
        )
        worker = GraphWorker(
            queues,
            url,
            context,
            concurrency=settings.worker_concurrency,
            drain_s=settings.drain_s,
            checkpointer=checkpointer,
            checkpoint_ttl_s=settings.checkpoint_ttl_s,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        await worker.run(burst=burst)
    nodes.shutdown(wait=False, cancel_futures=True)


def _config(settings: WorkerSettings) -> Path:
    is_given = "config" in settings.model_fields_set or settings.config.exists()
    return settings.config if is_given else BUILT_IN


def _export_key(provider: ModelSettings) -> None:
    """Let graphs that make their own ChatOpenAI find a key that came from a file."""
    if provider.openai_api_key:
        os.environ.setdefault("OPENAI_API_KEY", provider.openai_api_key.get_secret_value())
    if provider.openai_base_url:
        os.environ.setdefault("OPENAI_BASE_URL", provider.openai_base_url)


async def _check(redis: Redis, url: str, *, accept_unsafe: bool) -> None:
    """Refuse a Redis that cannot be reached, or that forgets tasks: one that evicts keys or keeps no append-only file.

    Raises:
        RedisUnavailableError: it does not answer.
        SettingsError: it would lose tasks; the message says what to change.
    """
    try:
        info = await redis.info("everything")
    except RedisError as error:
        raise RedisUnavailableError(f"cannot reach Redis at {mask_url(url)}: {error}") from error
    if info.get("redis_mode") == "cluster":
        raise SettingsError("Redis Cluster cannot be used: our scripts touch keys without a common hash tag")
    problems = []
    if info.get("maxmemory_policy") != "noeviction":
        problems.append(f"maxmemory-policy: expected noeviction, got: {info.get('maxmemory_policy')}")
    if not info.get("aof_enabled"):
        problems.append("appendonly: expected yes, got: no")
    if problems and not accept_unsafe:
        raise SettingsError(
            f"Redis at {mask_url(url)} would lose tasks: {'; '.join(problems)}. "
            "Change its configuration, or accept the loss with --unsafe-redis"
        )
    for problem in problems:
        _log.warning("redis.unsafe", problem=problem)


def _run_to_the_end(loop: asyncio.AbstractEventLoop, serving: partial[Coroutine[Any, Any, None]]) -> None:
    """Run the loop to its end, also past a node that calls sys.exit(): its task fails, its neighbours go on."""
    served = loop.create_task(serving())
    while not served.done():
        try:
            loop.run_until_complete(served)
        except (SystemExit, KeyboardInterrupt) as error:
            if served.done():
                raise
            _log.warning("node.exited", error=repr(error))


def _leave_abandoned_threads() -> None:
    """End now where a sync node still blocks its thread: Python would wait for it for ever."""
    if any(thread.name.startswith(_NODE_THREAD) and thread.is_alive() for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

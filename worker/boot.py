"""Worker processes from their start to their end: check Redis, open the context, serve, exit."""

import asyncio
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from functools import partial

import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.clients import is_outage, open_async
from langgraph_rq.shared.connections.connect_errors import explain_connect_error
from langgraph_rq.shared.errors import LanggraphRqError, RedisUnavailableError, SettingsError
from langgraph_rq.shared.garbage_collection import tune_garbage_collection
from langgraph_rq.shared.settings import RedactionSettings, RedisSettings, WorkerSettings, load, mask_url
from langgraph_rq.shared.telemetry.logs import configure, get_logger
from langgraph_rq.worker.context import BUILT_IN, config_path, open_context
from langgraph_rq.worker.fleet.forked.fork_server import ForkServer
from langgraph_rq.worker.fleet.forked.forks import kept_from_forks
from langgraph_rq.worker.fleet.forked.isolated import run_isolated
from langgraph_rq.worker.fleet.forked.isolation import Isolation
from langgraph_rq.worker.fleet.graph_worker import GraphWorker
from langgraph_rq.worker.fleet.node_threads import THREAD as NODE_THREAD
from langgraph_rq.worker.fleet.node_threads import NodeThreads
from langgraph_rq.worker.fleet.processes import run_past_exits, run_processes
from langgraph_rq.worker.telemetry.exporters import telemetry
from langgraph_rq.worker.telemetry.health import serve_health

_BITS = 64
"""Of a C long of Redis, in which scripts write times."""

_BROKEN = 1
"""Exit code of a worker that stopped because of stuck threads, or without its fork server; its supervisor should
restart it."""

_SWITCH_S = 0.001
"""How long a thread waits for the interpreter before it is given its turn, a fifth of Python's own default.

Until then every system call of the event loop wakes it in vain, and the loop waits as long for a thread that computes.
"""

_LEAVE_S = 1.0
"""An idle thread ends at once when its pool is shut down; a thread that takes longer is blocked in a node."""

_log = get_logger(__name__)


def boot(worker: WorkerSettings, redis: RedisSettings, queues: Sequence[str], *, burst: bool) -> int:
    """Serve in as many processes as the settings say until stopped; returns the exit code."""
    try:
        configure(worker.log_level, redactor=load(RedactionSettings).redactor())
    except LanggraphRqError as error:
        terminal.report(f"error: {error}")
        return 2
    return run_processes(worker.worker_processes, partial(_boot, worker, redis, queues, burst=burst))


def _boot(worker: WorkerSettings, redis: RedisSettings, queues: Sequence[str], *, burst: bool) -> int:
    """Serve in this process."""
    sys.setswitchinterval(_SWITCH_S)
    try:
        # When a guard refuses a call, LangChain leaves the coroutines of the graph's other handlers unawaited.
        warnings.filterwarnings("ignore", "coroutine 'ahandle_event' was never awaited", RuntimeWarning)
        fork_server = ForkServer.start(run_isolated)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = run_past_exits(runner.get_loop(), serve(worker, redis, queues, fork_server, burst=burst))
            _exit_past_abandoned_runs(runner.get_loop(), code)
    except LanggraphRqError as error:
        terminal.report(f"error: {error}")
        return 3 if isinstance(error, RedisUnavailableError) else 2
    except RedisError as error:  # it went away while the graphs were loaded
        if not is_outage(error):
            raise
        url = redis.redis_url.get_secret_value()
        terminal.report(f"error: {RedisUnavailableError(mask_url(url), explain_connect_error(error, url))}")
        return 3
    _exit_past_stuck_threads(code)
    return code


async def serve(
    settings: WorkerSettings, redis: RedisSettings, queues: Sequence[str], fork_server: ForkServer, *, burst: bool
) -> int:
    """Check Redis, load the graphs, and work until stopped; returns the exit code."""
    url = redis.redis_url.get_secret_value()
    nodes = NodeThreads(settings.worker_concurrency + settings.waiting_attempts)
    asyncio.get_running_loop().set_default_executor(nodes)
    for kept_at in _redis_urls(settings, redis):
        async with open_async(kept_at, connections=1) as client:
            await _check(client, kept_at, accept_unsafe=redis.unsafe_redis, replicas=redis.submit_replicas)
    async with open_context(settings, redis, is_fenced=lambda: worker.is_fenced) as context:
        worker = GraphWorker(
            queues,
            url,
            context,
            concurrency=settings.worker_concurrency,
            input_bytes=settings.worker_input_bytes,
            drain_s=settings.drain_s,
            checkpoint_ttl_s=settings.checkpoint_ttl_s,
            isolation=Isolation(fork_server, settings, redis, context.result_bytes),
            node_threads=nodes,
        )
        if config_path(settings) == BUILT_IN:
            _log.info("assistant.served", missing=str(settings.config))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        tune_garbage_collection()
        with (
            telemetry(worker, url, settings.worker_processes) as server,
            serve_health(server, worker, url),
            kept_from_forks(),
        ):
            await worker.run(burst=burst)
    nodes.shutdown(wait=False, cancel_futures=True)
    return _BROKEN if worker.is_broken else 0


def _redis_urls(settings: WorkerSettings, redis: RedisSettings) -> list[str]:
    """Return where tasks are kept and, if that is another Redis, where threads and the store are."""
    urls = [redis.redis_url]
    if redis.checkpoint_redis_url and settings.state != "postgres":
        urls.append(redis.checkpoint_redis_url)
    return list(dict.fromkeys(url.get_secret_value() for url in urls))


async def _check(redis: Redis, url: str, *, accept_unsafe: bool, replicas: int) -> None:
    """Refuse a Redis that would lose tasks or threads: it evicts keys, or keeps no append-only file.

    Redis Cluster and a Redis built for 32 bits, whose scripts cannot write the time, are refused in any case.

    Managed services often keep no such file. Where submits wait for `replicas`, these hold the tasks instead. They may
    be fewer for a while after a failover: then no submit is answered, and a worker that starts loses nothing.

    Raises:
        RedisUnavailableError: it does not answer.
        SettingsError: it cannot be used; the message says what to change.
    """
    try:
        info = await redis.info("everything")
    except RedisError as error:
        raise RedisUnavailableError(mask_url(url), explain_connect_error(error, url)) from error
    if info.get("redis_mode") == "cluster":
        raise SettingsError("expected a single Redis primary, got: Redis Cluster, whose keys need a common hash tag")
    if info.get("arch_bits", _BITS) != _BITS:
        got = info["arch_bits"]
        raise SettingsError(f"Redis at {mask_url(url)}: expected a build for {_BITS} bits, got: {got} bits")
    problems = []
    if info.get("maxmemory_policy") != "noeviction":
        problems.append(f"maxmemory-policy: expected noeviction, got: {info.get('maxmemory_policy')}")
    if not info.get("aof_enabled") and replicas:
        _log.warning("redis.in_memory", replicas=info.get("connected_slaves"), submits_wait_for=replicas)
    elif not info.get("aof_enabled"):
        problems.append("appendonly: expected yes, or replicas with LGRQ_SUBMIT_REPLICAS=1, got: no")
    if problems and not accept_unsafe:
        raise SettingsError(
            f"Redis at {mask_url(url)} would lose what it keeps: {'; '.join(problems)}. "
            "Change its configuration, or accept the loss with --unsafe-redis"
        )
    for problem in problems:
        _log.warning("redis.unsafe", problem=problem)


def _exit_past_stuck_threads(code: int) -> None:
    """Exit at once when a sync node still blocks its thread: at exit, Python would wait for it without limit."""
    until = time.monotonic() + _LEAVE_S
    nodes = [thread for thread in threading.enumerate() if thread.name.startswith(NODE_THREAD)]
    for thread in nodes:
        thread.join(max(0.0, until - time.monotonic()))
    if any(thread.is_alive() for thread in nodes):
        _exit(code)


def _exit_past_abandoned_runs(loop: asyncio.AbstractEventLoop, code: int) -> None:
    """Exit at once when a node does not let itself be cancelled: closing the loop would wait for it without limit."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left and loop.run_until_complete(asyncio.wait(left, timeout=_LEAVE_S))[1]:
        _exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

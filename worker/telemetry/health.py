"""Whether a worker process lives and can work, answered by a thread so that a stuck event loop is seen from outside.

`/health` fails only when the loop has not turned for `STUCK_S`: restarting the process is then the right thing.
`/ready` fails while nothing can be claimed (Redis is away, the lease is lost, the worker drains); it recovers alone.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError

from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.worker.fleet.graph_worker import GraphWorker
from langgraph_rq.worker.telemetry.metrics_server import Answer, MetricsServer

STUCK_S = 20.0
"""A loop that has not turned for so long is stuck; seconds of work without an await are bad, but no reason to kill."""

_TICK_S = 1.0
_REDIS_TIMEOUT_S = 1.0


class Health:
    """What is known of one worker process.

    Args:
        redis_url: Asked at each `/ready`, on a connection of its own.
        is_held: Whether the lease surely holds.
        is_stopping: Whether the worker has been asked to end.
        stuck_s: As `STUCK_S`.
    """

    def __init__(
        self,
        redis_url: str,
        is_held: Callable[[], bool],
        is_stopping: Callable[[], bool],
        *,
        stuck_s: float = STUCK_S,
    ) -> None:
        self._redis = open_sync(redis_url, connections=2, timeout_s=_REDIS_TIMEOUT_S)
        self._is_held = is_held
        self._is_stopping = is_stopping
        self._stuck_s = stuck_s
        self._turned_at = time.monotonic()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Notice whether the running loop turns, while the block runs."""
        loop = asyncio.get_running_loop()
        pulse: asyncio.TimerHandle | None = None

        def turn() -> None:
            nonlocal pulse
            self._turned_at = time.monotonic()
            pulse = loop.call_later(_TICK_S, turn)

        turn()
        try:
            yield
        finally:
            if pulse:
                pulse.cancel()
            self._redis.close()

    def health(self) -> Answer:
        """Answer `/health`; touches nothing."""
        silent_s = time.monotonic() - self._turned_at
        if silent_s > self._stuck_s:
            return _answer(503, status="stuck", silent_s=round(silent_s))
        return _answer(200, status="ok")

    def ready(self) -> Answer:
        """Answer `/ready`."""
        problems = []
        if self._is_stopping():
            problems.append("the worker drains")
        if not self._is_held():
            problems.append("the lease may be over")
        try:
            info: Any = self._redis.info("replication")
            if info["role"] != "master":
                problems.append("Redis is a replica")
        except (RedisError, OSError):
            problems.append("Redis does not answer")
        return _answer(503 if problems else 200, ready=not problems, problems=problems)


@contextmanager
def serve_health(server: MetricsServer | None, worker: GraphWorker, redis_url: str) -> Iterator[None]:
    """Answer for `worker` on the port of its metrics, while the block runs; without a port do nothing."""
    if server is None:
        yield
        return
    health = Health(redis_url, lambda: worker.is_held, lambda: worker.is_stopping)
    with health.watch():
        server.routes |= {"/health": health.health, "/ready": health.ready}
        yield


def _answer(code: int, /, **body: object) -> Answer:
    return code, "application/json", json.dumps(body).encode()

"""A worker as RQ's tools see it: rq-dashboard and `rq info` list it under its name, with its queues and its state."""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from langgraph_rq.shared.connections.clients import is_outage, open_sync
from langgraph_rq.shared.telemetry.logs import get_logger

_log = get_logger(__name__)


class RegisteredWorker(BaseWorker):
    """A worker's entry in RQ's registers, on a connection of its own.

    Args:
        queues: RQ queues, the most urgent first.
        redis_url: Redis.
        lease_ms: How long the worker's lease lasts; its entry outlives it tenfold.
    """

    def __init__(self, queues: Sequence[str], redis_url: str, lease_ms: int) -> None:
        super().__init__(
            list(queues),
            name=_new_name(),
            connection=open_sync(redis_url, connections=2),
            serializer=JSONSerializer,
            worker_ttl=lease_ms // 100,
        )

    def register(self) -> None:
        """Appear in RQ's registers. Raises what Redis raises when it cannot be reached."""
        try:
            self.register_birth()  # type: ignore[no-untyped-call]
            self.set_state("idle")
        except RedisError as error:
            if is_outage(error):
                raise
            # A register of another type: only RQ's tools miss this worker.
            _log.warning("worker.not_registered", worker=self.name, error=str(error))

    def deregister(self) -> None:
        """Disappear from RQ's registers; while Redis is away, the entry is left to expire."""
        with suppress(RedisError):
            self.register_death()  # type: ignore[no-untyped-call]

    def take_new_name(self) -> None:
        """Go on under a new name, so that nothing that stands in Redis for the old one is taken for this worker's."""
        self.deregister()
        self.name = _new_name()

    def _set_connection(self, connection: Redis) -> Redis:
        """Keep the connection's timeouts; RQ would wait for seven minutes on a dead one."""
        return connection


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"

"""A transport that asks again after a broken connection, and names an outage by one error."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.producer.client.transports import Ask, Transport
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.scripts import Call, Replicas
from langgraph_rq.shared.errors import RedisUnavailableError

_WAITS_S = (0.05, 0.3)
"""Between the attempts of one round trip."""

T = TypeVar("T")


class Connection:
    """Round trips to Redis that may safely run twice, as all of a client's may.

    Args:
        transport: Makes them.
        shown_url: The URL without credentials, for errors.
    """

    def __init__(self, transport: Transport, shown_url: str) -> None:
        self.transport = transport
        self._shown_url = shown_url

    async def read(self, ask: Ask) -> list[Any]:
        """Run commands in one round trip, in order but not as a transaction. Raises RedisUnavailableError."""
        return await self._retry(partial(self.transport.read, ask))

    async def run(self, calls: Sequence[Call[Any]], replicas: Replicas = scripts.PRIMARY_ONLY) -> list[Any]:
        """Run scripts in one round trip; each answers its value or its exception. Raises RedisUnavailableError."""
        return await self._retry(partial(self.transport.run, calls, replicas))

    async def _retry(self, ask: Callable[[], Awaitable[T]]) -> T:
        for wait_s in (*_WAITS_S, None):
            try:
                return await ask()
            except (RedisConnectionError, RedisTimeoutError) as error:
                if wait_s is None:
                    raise RedisUnavailableError(self._shown_url, error) from error
                await self.transport.pause(wait_s)
        raise AssertionError

"""A transport that asks again after a broken connection, and names an outage by one error."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import RedisError

from langgraph_rq.producer.client.transport.transports import Ask, Transport
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.connect_errors import explain_connect_error, is_connect_error
from langgraph_rq.shared.connections.masked_url import mask_url
from langgraph_rq.shared.connections.scripts import Call, Replicas, ScriptNotLoadedError
from langgraph_rq.shared.connections.tls import PlainPortError
from langgraph_rq.shared.errors import RedisUnavailableError, ScriptsMissingError

_WAITS_S = (0.05, 0.3)
"""Between the attempts of one round trip."""
_SCRIPT_WAITS_S = (0.1, 0.4, 1.0, 1.5)
"""Between the attempts while Redis lacks a script: after a restart of Redis, live workers load it when they renew."""

T = TypeVar("T")


class Connection:
    """Round trips to Redis that may safely run twice, as all of a client's may.

    Args:
        transport: Makes them.
        url: Of Redis; errors show it without credentials.
    """

    def __init__(self, transport: Transport, url: str) -> None:
        self.transport = transport
        self._url = url

    async def read(self, ask: Ask) -> list[Any]:
        """Run commands in one round trip, in order but not as a transaction. Raises RedisUnavailableError."""
        return await self._retry(partial(self.transport.read, ask))

    async def run(
        self, calls: Sequence[Call[Any]], replicas: Replicas = scripts.PRIMARY_ONLY, *, awaits_scripts: bool = True
    ) -> list[Any]:
        """Run scripts in one round trip; each answers its value or its exception.

        Raises:
            RedisUnavailableError: Redis is away.
            ScriptsMissingError: Redis lacks the scripts, and still does after 3 s if `awaits_scripts`.
        """
        return await self._retry(
            partial(self.transport.run, calls, replicas), _SCRIPT_WAITS_S if awaits_scripts else ()
        )

    async def _retry(self, ask: Callable[[], Awaitable[T]], script_waits_s: Sequence[float] = ()) -> T:
        outages, absences = iter(_WAITS_S), iter(script_waits_s)
        while True:
            try:
                return await ask()
            except RedisError as error:
                if not is_connect_error(error):
                    raise
                wait_s = next(absences if isinstance(error, ScriptNotLoadedError) else outages, None)
                if wait_s is None or isinstance(error, PlainPortError):
                    raise unavailable(self._url, error) from error
                await self.transport.pause(wait_s)


def unavailable(url: str, error: Exception) -> RedisUnavailableError:
    """Translate an outage of Redis, or its lack of a script, into an error of this library."""
    if isinstance(error, ScriptNotLoadedError):
        return ScriptsMissingError(mask_url(url), error)
    return RedisUnavailableError(mask_url(url), explain_connect_error(error, url))

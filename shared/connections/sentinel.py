"""Redis behind Sentinel: which server is the primary is asked at every connect, so a failover needs no restart.

A primary that the sentinels have deposed may live on, and take writes for ten seconds that are all lost. So the pools
of a process share what the sentinels answered last: when one learns of another primary, all leave the old one.

    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db][?option=value...]

`rediss+sentinel://` uses TLS to the sentinels and to Redis. User and password are Redis' own; the sentinels' are the
options `sentinel_username` and `sentinel_password`. All other options are redis-py's, `ssl_ca_certs` for example.

The pools are redis-py's two at once: one asks the sentinels, the other lets callers wait for a free connection.
"""

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis import BlockingConnectionPool, sentinel
from redis import asyncio as aio
from redis.asyncio import sentinel as aio_sentinel
from redis.connection import parse_url
from redis.exceptions import RedisError

SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379
SENTINEL_TIMEOUT_S = 1.0
"""A sentinel that is silent for so long is passed over: the next one knows the same."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Where the sentinels are, what they watch, and how to connect to them and to the servers they name."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    sentinel_options: dict[str, Any]
    redis_options: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> "SentinelUrl":
        """Read a Sentinel URL.

        Raises:
            ValueError: naming what is missing; the message does not hold the URL, which may have a password.
        """
        parts = urlsplit(url)
        credentials, at, hosts = parts.netloc.rpartition("@")
        service, _, db = parts.path.strip("/").partition("/")
        if not service or not hosts:
            raise ValueError("expected redis+sentinel://host:port,host:port/service/db: host or service is missing")
        options = dict(parse_qsl(parts.query))
        own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        scheme = parts.scheme.partition("+")[0]
        redis_options = parse_url(f"{scheme}://{credentials}{at}primary/{db or 0}?{urlencode(options)}")
        for name in ("host", "port", "connection_class"):
            redis_options.pop(name, None)
        tls = {"ssl": True} if scheme == "rediss" else {}
        tls |= {name: value for name, value in redis_options.items() if name.startswith("ssl_")}
        return cls(
            tuple(_address(host) for host in hosts.split(",")),
            unquote(service),
            {**tls, **{name: value for name, value in own.items() if value}},
            {**redis_options, **tls},
        )


def _address(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, ""
    return name.strip("[]"), int(port or SENTINEL_PORT)


@dataclass(frozen=True, slots=True)
class _Primary:
    """A primary as sentinels name it. The later it was promoted, the higher is the epoch."""

    addresses: frozenset[tuple[str, int]]
    """More than one if a sentinel has its host's name and another the number."""
    epoch: int


_Service = tuple[frozenset[tuple[str, int]], str]

_named: dict[_Service, _Primary] = {}
"""Sentinels and the service that they watch -> its primary, by their last answer to this process."""


class _Answer:
    """What a sentinel must answer to be believed; mixed into redis-py's Sentinel, which asks one after the other.

    Several callers ask at a time, each with a copy: redis-py puts the sentinel that answered to the front of its list,
    by places that another caller may have changed meanwhile. Then one stands there twice and another is lost, never
    asked and never closed again.
    """

    service: _Service
    sentinels: list[Any]
    earliest: int = 0
    """The epoch that an answer must have. A sentinel that was cut off from the others names a former primary."""
    epoch: int = 0
    """Of the answer."""
    stale: int = 0
    """How many named a primary that lives, of an earlier epoch."""

    def asking(self, sentinels: Sequence[Any]) -> Self:
        """Return a copy that asks these sentinels."""
        known = _named.get(self.service)
        asking = copy(self)
        asking.sentinels, asking.earliest = list(sentinels), known.epoch if known else 0
        return asking

    def check_master_state(self, state: dict[str, Any], service_name: str) -> bool:
        """Return whether the sentinel's answer can be used."""
        if not super().check_master_state(state, service_name):  # type: ignore[misc]
            return False
        self.epoch = state["config-epoch"]
        is_stale = self.epoch < self.earliest
        self.stale += is_stale
        return not is_stale

    @property
    def are_new(self) -> bool:
        """Whether most sentinels count epochs from the beginning, so were set up anew."""
        return 2 * self.stale > len(self.sentinels)

    def note(self, address: tuple[str, int]) -> None:
        """Share an answer with the pools of this process."""
        known = _named.get(self.service)
        others = known.addresses if known and known.epoch == self.epoch else frozenset()
        _named[self.service] = _Primary(others | {address}, self.epoch)


class _Sentinel(_Answer, sentinel.Sentinel):
    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Answer the primary's address."""
        asking = self.asking(self.sentinels)
        try:
            found: tuple[str, int] = super(_Answer, asking).discover_master(service_name)  # type: ignore[no-untyped-call]
        except sentinel.MasterNotFoundError:
            if not asking.are_new:
                raise
            asking.earliest = 0
            found = super(_Answer, asking).discover_master(service_name)  # type: ignore[no-untyped-call]
        self.sentinels = asking.sentinels
        asking.note(found)
        return found

    def look(self, service_name: str) -> None:
        """Ask one sentinel, each time the next one."""
        first, *others = self.sentinels
        self.sentinels = [*others, first]
        asking = self.asking([first])
        with suppress(RedisError):
            asking.note(super(_Answer, asking).discover_master(service_name))  # type: ignore[no-untyped-call]


class _AsyncSentinel(_Answer, aio_sentinel.Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Answer the primary's address."""
        asking = self.asking(self.sentinels)
        try:
            found: tuple[str, int] = await super(_Answer, asking).discover_master(service_name)
        except aio_sentinel.MasterNotFoundError:
            if not asking.are_new:
                raise
            asking.earliest = 0
            found = await super(_Answer, asking).discover_master(service_name)
        self.sentinels = asking.sentinels
        asking.note(found)
        return found


class BlockingSentinelPool(sentinel.SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary, for synchronous clients."""

    _has_left = False
    """Whether it has left a former primary since it last looked."""

    def look(self) -> bool:
        """Ask one of the sentinels; return whether the primary is another one than when it last looked.

        A sentinel that is silent takes up to two seconds, and another one is asked next time.
        """
        self.sentinel_manager.look(self.service_name)
        self._leave_former()
        has_left, self._has_left = self._has_left, False
        return has_left

    def _leave_former(self) -> None:
        """Use no connection again that goes to a former primary; those in use are closed when they come back."""
        known = _named.get(self.sentinel_manager.service)
        address = self.proxy.master_address
        if known is None or address is None or address in known.addresses:
            return
        self.proxy.reset()
        self.disconnect(inuse_connections=False)
        self._has_left = True

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Take a connection to the primary."""
        self._leave_former()
        return super().get_connection(*args, **options)  # type: ignore[no-untyped-call]

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; with those in use, the ones to the sentinels too."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()


class AsyncBlockingSentinelPool(aio_sentinel.SentinelConnectionPool, aio.BlockingConnectionPool):
    """Connections to the primary, for asynchronous clients."""

    async def ensure_connection(self, connection: Any) -> None:
        """Connect if need be: anew if the connection goes to a former primary."""
        known = _named.get(self.sentinel_manager.service)
        if known and connection.is_connected and (connection.host, connection.port) not in known.addresses:
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; with those in use, the ones to the sentinels too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


def sync_pool(url: str, sentinel_options: dict[str, Any], options: dict[str, Any]) -> BlockingSentinelPool:
    """Make the pool of a synchronous client; `options` are redis-py's, of the pool and its connections."""
    where = SentinelUrl.parse(url)
    asked = {**where.sentinel_options, **sentinel_options}
    sentinels = _Sentinel(list(where.sentinels), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    sentinels.service = frozenset(where.sentinels), where.service
    return BlockingSentinelPool(where.service, sentinels, **{**where.redis_options, **options})  # type: ignore[no-untyped-call]


def async_pool(url: str, sentinel_options: dict[str, Any], options: dict[str, Any]) -> AsyncBlockingSentinelPool:
    """Make the pool of an asynchronous client, as `sync_pool` does."""
    where = SentinelUrl.parse(url)
    asked = {**where.sentinel_options, **sentinel_options}
    sentinels = _AsyncSentinel(list(where.sentinels), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    sentinels.service = frozenset(where.sentinels), where.service
    return AsyncBlockingSentinelPool(where.service, sentinels, **{**where.redis_options, **options})  # type: ignore[no-untyped-call]

"""Redis behind Sentinel: which server is the primary is asked at every connect, so a failover needs no restart.

    redis+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db][?option=value...]

`rediss+sentinel://` uses TLS to the sentinels and to Redis. User and password are Redis' own; the sentinels' are the
options `sentinel_username` and `sentinel_password`. All other options are redis-py's, `ssl_ca_certs` for example.

The pools are redis-py's two at once: one asks the sentinels, the other lets callers wait for a free connection.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis import BlockingConnectionPool, sentinel
from redis import asyncio as aio
from redis.asyncio import sentinel as aio_sentinel
from redis.connection import parse_url

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


class BlockingSentinelPool(sentinel.SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary, for synchronous clients."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; with those in use, the ones to the sentinels too."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()


class AsyncBlockingSentinelPool(aio_sentinel.SentinelConnectionPool, aio.BlockingConnectionPool):
    """Connections to the primary, for asynchronous clients."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; with those in use, the ones to the sentinels too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            await self.sentinel_manager.aclose()


class _Sentinel(sentinel.Sentinel):
    """Sentinels that are asked by several threads at a time; see `_AsyncSentinel`."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Answer the primary's address."""
        asking = copy(self)
        asking.sentinels = list(self.sentinels)
        found: tuple[str, int] = super(_Sentinel, asking).discover_master(service_name)  # type: ignore[no-untyped-call]
        self.sentinels = asking.sentinels
        return found


class _AsyncSentinel(aio_sentinel.Sentinel):
    """Sentinels that are asked by several callers at a time.

    redis-py puts the one that answered to the front of its list, by places that another caller may have changed
    meanwhile: then one stands there twice and another is lost, never asked and never closed again. So each asks with a
    list of its own.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Answer the primary's address."""
        asking = copy(self)
        asking.sentinels = list(self.sentinels)
        found: tuple[str, int] = await super(_AsyncSentinel, asking).discover_master(service_name)
        self.sentinels = asking.sentinels
        return found


def sync_pool(url: str, sentinel_options: dict[str, Any], options: dict[str, Any]) -> BlockingSentinelPool:
    """Make the pool of a synchronous client; `options` are redis-py's, of the pool and its connections."""
    where = SentinelUrl.parse(url)
    asked = {**where.sentinel_options, **sentinel_options}
    sentinels = _Sentinel(_list(where.sentinels), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    return BlockingSentinelPool(where.service, sentinels, **{**where.redis_options, **options})  # type: ignore[no-untyped-call]


def async_pool(url: str, sentinel_options: dict[str, Any], options: dict[str, Any]) -> AsyncBlockingSentinelPool:
    """Make the pool of an asynchronous client, as `sync_pool` does."""
    where = SentinelUrl.parse(url)
    asked = {**where.sentinel_options, **sentinel_options}
    sentinels = _AsyncSentinel(_list(where.sentinels), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    return AsyncBlockingSentinelPool(where.service, sentinels, **{**where.redis_options, **options})  # type: ignore[no-untyped-call]


def _list(addresses: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    return list(addresses)

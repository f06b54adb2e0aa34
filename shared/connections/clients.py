"""Redis clients as this library needs them: bounded pools that wait, explicit timeouts, no blind retries.

redis-py repeats a command after a lost reply by default. For a command that is not idempotent this does the work
twice, so retrying is left to the callers.

A URL is redis-py's (`redis://`, `rediss://`, `unix://`) or one that `sentinel.py` reads. `rediss://` checks the
server's certificate; the option `ssl_ca_certs` names the file of a private CA.
"""

from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis import BlockingConnectionPool, Redis
from redis import asyncio as aio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from langgraph_rq.shared.connections import sentinel
from langgraph_rq.shared.connections.tls import AsyncTlsConnection, TlsConnection

CONNECT_TIMEOUT_S = 5.0

OUTAGES = (
    RedisConnectionError,
    RedisTimeoutError,
    OutOfMemoryError,
    ReadOnlyError,
    MasterDownError,
    TryAgainError,
)
"""Errors of a Redis that is unreachable, full or replaced; BusyLoadingError is one too. No task fails for them."""

_OUTAGE_CODES = ("OOM", "LOADING", "READONLY", "MASTERDOWN", "BUSY", "TRYAGAIN", "UNBLOCKED", "NOREPLICAS", "MISCONF")
"""Of answers for which redis-py has no class, or that come through a script; MISCONF: the disk below it is full."""

_SENTINEL_TIMEOUTS = {
    "socket_timeout": sentinel.SENTINEL_TIMEOUT_S,
    "socket_connect_timeout": sentinel.SENTINEL_TIMEOUT_S,
}


def open_async(url: str, *, connections: int = 64, timeout_s: float | None = 5.0) -> aio.Redis:
    """Open a client on a pool of its own; `timeout_s` None is for commands that block on purpose."""
    retry = AsyncRetry(NoBackoff(), 0)
    options = {**_pool_options(connections, timeout_s), "retry": retry}
    if is_sentinel(url):
        return aio.Redis.from_pool(sentinel.async_pool(url, {**_SENTINEL_TIMEOUTS, "retry": retry}, options))
    pool = aio.BlockingConnectionPool.from_url(url, **options)
    if _has_tls(url):
        pool.connection_class = AsyncTlsConnection
    return aio.Redis.from_pool(pool)


def open_sync(url: str, *, connections: int = 16, timeout_s: float | None = 5.0) -> Redis:
    """Open a synchronous client, as `open_async` does."""
    retry = Retry(NoBackoff(), 0)
    options = {**_pool_options(connections, timeout_s), "retry": retry}
    if is_sentinel(url):
        return Redis.from_pool(sentinel.sync_pool(url, {**_SENTINEL_TIMEOUTS, "retry": retry}, options))
    pool = BlockingConnectionPool.from_url(url, **options)
    if _has_tls(url):
        pool.connection_class = TlsConnection
    return Redis.from_pool(pool)


def _has_tls(url: str) -> bool:
    return url.startswith("rediss://")


def _pool_options(connections: int, timeout_s: float | None) -> dict[str, Any]:
    return {
        # With them on, which is redis-py's default over TCP, its pools hand out connections that the server has closed:
        # after an outage each would fail once more.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "max_connections": connections,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }


_TEXT_OPTIONS = ("decode_responses", "encoding", "encoding_errors")


def is_sentinel(url: str) -> bool:
    """Say whether the URL names sentinels instead of a Redis."""
    return url.partition("://")[0] in sentinel.SCHEMES


def has_moved(redis: Redis) -> bool:
    """Ask a sentinel, where there are any, and return whether another server is the primary than this client uses.

    Then the clients of this process connect anew, each before its next command.
    """
    pool = redis.connection_pool
    return isinstance(pool, sentinel.BlockingSentinelPool) and pool.look()


def check_url(url: str) -> None:
    """Refuse what no client can be made from.

    Raises:
        ValueError: with the forms that are understood; the message does not hold the URL, which may have a password.
    """
    try:
        options = sentinel.SentinelUrl.parse(url).redis_options if is_sentinel(url) else parse_url(url)
        if urlsplit(url).scheme in {"redis", "rediss"}:
            int(urlsplit(url).path.strip("/") or 0)  # redis-py takes another word for database 0
    except ValueError:
        raise ValueError(
            "expected redis://host:port/db, rediss://host:port/db, unix:///path?db=0 "
            "or redis+sentinel://host:port,host:port/service/db"
        ) from None
    if not options.keys().isdisjoint(_TEXT_OPTIONS):
        raise ValueError(f"expected none of the options {', '.join(_TEXT_OPTIONS)}: answers are read as bytes")
    try:
        with open_sync(url, connections=1) as client:
            client.connection_pool.make_connection()
    except TypeError:
        raise ValueError("expected options of redis-py's connections, those for TLS with rediss:// only") from None


def leaves_host_in_plain(url: str) -> bool:
    """Say whether what is sent to this Redis can be read or changed on the way: no TLS, or TLS that checks nothing."""
    parts = urlsplit(url)
    # Repeated options count each: redis-py takes the first one. A host may stand among them too.
    options = parse_qsl(parts.query)
    hosts = parts.netloc.rpartition("@")[2].split(",") + [value for name, value in options if name == "host"]
    if parts.scheme == "unix" or all(_is_local(host) for host in hosts):
        return False
    return not parts.scheme.startswith("rediss") or any(_checks_nothing(*option) for option in options)


def _checks_nothing(name: str, value: str) -> bool:
    return (name == "ssl_cert_reqs" and value != "required") or (name == "ssl_check_hostname" and value.lower() in _NO)


_NO = {"0", "f", "false", "n", "no"}
"""What redis-py takes for no."""


def _is_local(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or "localhost"
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def is_wrong_type(error: object) -> bool:
    """Return whether a key is of another type than the command expects: another program wrote it (R15)."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def is_outage(error: BaseException) -> bool:
    """Return whether Redis is unreachable, restarting, full or read-only, rather than the command being wrong."""
    return isinstance(error, OUTAGES) or (isinstance(error, ResponseError) and str(error).startswith(_OUTAGE_CODES))

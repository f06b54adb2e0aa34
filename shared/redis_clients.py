"""Redis clients as this library needs them: bounded pools that wait, explicit timeouts, no blind retries.

redis-py repeats a command after a lost reply by default. For a command that is not idempotent this does the work
twice, so retrying is left to the callers, who know.
"""

from redis import BlockingConnectionPool, Redis
from redis import asyncio as aio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

CONNECT_TIMEOUT_S = 5.0

OUTAGES = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError)
"""What Redis being away or full looks like: never a task's failure. BusyLoadingError is a connection error."""


def open_async(url: str, *, connections: int = 64, timeout_s: float | None = 5.0) -> aio.Redis:
    """Open a client on a pool of its own; `timeout_s` None is for commands that block on purpose."""
    pool = aio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    return aio.Redis.from_pool(pool)


def open_sync(url: str, *, connections: int = 16, timeout_s: float | None = 5.0) -> Redis:
    """Open a synchronous client, as `open_async` does."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def is_outage(error: BaseException) -> bool:
    """Tell Redis being away, restarting, full or read-only from a command that is simply wrong."""
    if isinstance(error, OUTAGES):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(
        ("OOM", "LOADING", "READONLY", "MASTERDOWN", "BUSY", "TRYAGAIN", "UNBLOCKED")
    )

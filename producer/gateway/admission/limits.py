"""A rate limit per user, and back-pressure for all while the queue is long.

Keys:
    agent:rate:<user>    string  counters of the current and the last window, kept by the library `limits`; two windows
"""

import time
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis

from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.keys import OPEN

_PREFIX = "agent:rate"
_QUEUE_RETRY_S = 5


def parse_rate(text: str) -> RateLimitItem:
    """Read a rate such as "600/minute". Raises SettingsError."""
    try:
        return parse(text)
    except ValueError:
        raise SettingsError(f'LGRQ_GATEWAY_RATE: expected a rate such as "600/minute", got: {text}') from None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a user's rate: `resets_at` is a Unix time."""

    limit: int
    remaining: int
    resets_at: int

    def headers(self) -> dict[str, str]:
        """Write the de-facto standard headers."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.resets_at),
        }


class Limits:
    """Decides whether a task may be submitted now.

    Args:
        redis: Shared by all gateway processes, so that they count together.
        rate: Of one user; users without an id share one rate per tenant. None: no limit.
        open_tasks: Refuse further tasks while so many have not ended.
    """

    def __init__(self, redis: Redis, rate: RateLimitItem | None, open_tasks: int) -> None:
        self._redis = redis
        self._rate = rate
        self._open_tasks = open_tasks
        # The library types its options as plain values and passes them on to redis-py, which takes a pool.
        pool: Any = redis.connection_pool
        storage = RedisStorage("async+redis://", connection_pool=pool, implementation="redispy", key_prefix=_PREFIX)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def admit(self, tenant: str, user_id: str | None) -> dict[str, str]:
        """Count one submission; answers the headers that say what is left. Raises ProblemError 429."""
        headers = await self._count(tenant, f"user {user_id}" if user_id else "anonymous")
        waiting = await self._redis.zcard(OPEN)
        if waiting >= self._open_tasks:
            raise ProblemError(
                429,
                "queue_full",
                f"{waiting:,} tasks have not ended, at most {self._open_tasks:,} may: try again later",
                headers={**headers, "Retry-After": str(_QUEUE_RETRY_S)},
            )
        return headers

    async def _count(self, tenant: str, user: str) -> dict[str, str]:
        if self._rate is None:
            return {}
        is_allowed = await self._limiter.hit(self._rate, tenant, user)
        window = await self._limiter.get_window_stats(self._rate, tenant, user)
        left = Allowance(self._rate.amount, max(0, window.remaining), round(window.reset_time))
        if is_allowed:
            return left.headers()
        wait_s = max(1, round(window.reset_time - time.time()))
        raise ProblemError(
            429,
            "rate_limited",
            f"more than {self._rate} of this user: try again in {wait_s} s",
            headers={**left.headers(), "Retry-After": str(wait_s)},
        )

"""A rate limit per user, and back-pressure for all while the queue is long.

Keys:
    agent:rate:<tenant>--<user>  hash  submissions in the current and the last window; two windows
"""

import re
from dataclasses import dataclass

from redis.asyncio import Redis

from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.keys import OPEN

_UNITS_S = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_RATE = re.compile(rf"([1-9]\d{{0,8}})\s*(?:/|per)\s*([1-9]\d{{0,5}})?\s*({'|'.join(_UNITS_S)})s?")
_QUEUE_RETRY_S = 5


@dataclass(frozen=True, slots=True)
class Rate:
    """So many submissions in so many milliseconds."""

    limit: int
    window_ms: int
    text: str
    """As it was set, for people."""

    def __str__(self) -> str:
        return self.text


def parse_rate(text: str) -> Rate:
    """Read a rate such as "600/minute" or "10 per 5 seconds". Raises SettingsError."""
    found = _RATE.fullmatch(text.strip().lower())
    if not found:
        raise SettingsError(f'LGRQ_GATEWAY_RATE: expected a rate such as "600/minute", got: {text}')
    amount, multiple, unit = found.groups()
    return Rate(int(amount), int(multiple or 1) * _UNITS_S[unit] * 1_000, text.strip())


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a user's rate."""

    wait_ms: int
    """Until a submission is allowed again; 0: this one was."""
    remaining: int
    resets_at: int
    """When the window ends (Unix time)."""


def hit_call(rate: Rate, tenant: str, user_id: str | None, now_ms: int | str = "") -> Call[Allowance]:
    """Count a submission of a user, if the rate allows it; users without an id are one user of their tenant."""
    key = f"agent:rate:{tenant}--{user_id or ''}"
    return Call(
        load_script("producer/gateway/admission/hit"),
        [key],
        [rate.limit, rate.window_ms, now_ms],
        lambda reply: Allowance(reply[0], reply[1], reply[2] // 1_000),
    )


class Limits:
    """Decides whether a task may be submitted now.

    Args:
        redis: Shared by all gateway processes, so that they count together.
        rate: Of one user; users without an id share one rate per tenant. None: no limit.
        open_tasks: Refuse further tasks while so many have not ended.
    """

    def __init__(self, redis: Redis, rate: Rate | None, open_tasks: int) -> None:
        self._redis = redis
        self._rate = rate
        self._open_tasks = open_tasks

    async def admit(self, tenant: str, user_id: str | None) -> dict[str, str]:
        """Count one submission; answers the headers that say what is left. Raises ProblemError 429."""
        headers = await self._count(self._rate, tenant, user_id) if self._rate else {}
        waiting = await self._redis.zcard(OPEN)
        if waiting >= self._open_tasks:
            raise ProblemError(
                429,
                "queue_full",
                f"{waiting:,} tasks have not ended, at most {self._open_tasks:,} may: try again later",
                headers={**headers, "Retry-After": str(_QUEUE_RETRY_S)},
            )
        return headers

    async def _count(self, rate: Rate, tenant: str, user_id: str | None) -> dict[str, str]:
        left = await scripts.run(self._redis, hit_call(rate, tenant, user_id))
        headers = {
            "X-RateLimit-Limit": str(rate.limit),
            "X-RateLimit-Remaining": str(left.remaining),
            "X-RateLimit-Reset": str(left.resets_at),
        }
        if not left.wait_ms:
            return headers
        wait_s = -(-left.wait_ms // 1_000)
        raise ProblemError(
            429,
            "rate_limited",
            f"more than {rate} of this user: try again in {wait_s} s",
            headers={**headers, "Retry-After": str(wait_s)},
        )

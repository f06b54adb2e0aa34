"""The rates of a tenant and of its users, and back-pressure for all while the queue is long."""

from redis.asyncio import Redis

from langgraph_rq.producer.gateway.admission.rates import Allowance, Rate, hit_call, tenant_hit_call
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.queue.keys import OPEN

_QUEUE_RETRY_S = 5


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

    async def admit(self, tenant: str, user_id: str | None, tenant_rate: Rate | None = None) -> dict[str, str]:
        """Count one submission of the tenant, then of its user; answers the headers that say what the user has left.

        Raises ProblemError 429.
        """
        if tenant_rate:
            await self._count(tenant_rate, tenant_hit_call(tenant_rate, tenant), f"tenant {tenant}")
        headers = (
            await self._count(self._rate, hit_call(self._rate, tenant, user_id), "this user") if self._rate else {}
        )
        waiting = await self._redis.zcard(OPEN)
        if waiting >= self._open_tasks:
            raise ProblemError(
                429,
                "queue_full",
                f"{waiting:,} tasks have not ended, at most {self._open_tasks:,} may: try again later",
                headers={**headers, "Retry-After": str(_QUEUE_RETRY_S)},
            )
        return headers

    async def _count(self, rate: Rate, hit: Call[Allowance], whose: str) -> dict[str, str]:
        left = await scripts.run(self._redis, hit)
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
            f"more than {rate} of {whose}: try again in {wait_s} s",
            headers={**headers, "Retry-After": str(wait_s)},
        )

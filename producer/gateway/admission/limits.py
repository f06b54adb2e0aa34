"""The rates of a tenant and of its users, and back-pressure for all while the queue is long."""

from langgraph_rq.producer.gateway.admission.rates import Allowance, Rate, hit_call
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.connections.batching import Batcher

_QUEUE_RETRY_S = 5


class Limits:
    """Decides whether a task may be submitted now.

    Args:
        batcher: To the Redis of all gateway processes, so that they count together.
        rate: Of one user; users without an id share one rate per tenant. None: no limit.
        open_tasks: Refuse further tasks while so many have not ended.
    """

    def __init__(self, batcher: Batcher, rate: Rate | None, open_tasks: int) -> None:
        self._batcher = batcher
        self._rate = rate
        self._open_tasks = open_tasks

    async def admit(self, tenant: str, user_id: str | None, tenant_rate: Rate | None = None) -> dict[str, str]:
        """Count one submission of the tenant and its user; answers the headers that say what the user has left.

        Raises ProblemError 429. A submission above a rate is not counted at all.
        """
        known = {tenant: (tenant_rate, f"tenant {tenant}"), f"{tenant}--{user_id or ''}": (self._rate, "this user")}
        rates = {key: rate for key, (rate, _) in known.items() if rate}
        hit = await self._batcher.run(hit_call(rates))
        for (key, rate), left in zip(rates.items(), hit.allowances, strict=True):
            if left.wait_ms:
                wait_s = -(-left.wait_ms // 1_000)
                raise ProblemError(
                    429,
                    "rate_limited",
                    f"more than {rate} of {known[key][1]}: try again in {wait_s} s",
                    headers={**_headers(rate, left), "Retry-After": str(wait_s)},
                )
        headers = _headers(self._rate, hit.allowances[-1]) if self._rate else {}
        if hit.open_tasks >= self._open_tasks:
            raise ProblemError(
                429,
                "queue_full",
                f"{hit.open_tasks:,} tasks have not ended, at most {self._open_tasks:,} may: try again later",
                headers={**headers, "Retry-After": str(_QUEUE_RETRY_S)},
            )
        return headers


def _headers(rate: Rate, left: Allowance) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(rate.limit),
        "X-RateLimit-Remaining": str(left.remaining),
        "X-RateLimit-Reset": str(left.resets_at),
    }

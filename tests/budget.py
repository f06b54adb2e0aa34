"""The verbs of the token budget on one Redis with one set of limits, each awaited by itself, and the fleet's limit."""

from datetime import date

from redis.asyncio import Redis

from langgraph_rq.shared.budget.policy import set_limit_call
from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Expiry,
    Payer,
    Refused,
    Request,
    Reservation,
    Settlement,
    Usage,
    expire_call,
    reserve_call,
    settle_call,
    usage_call,
)
from langgraph_rq.shared.connections.scripts import run

NOON = 20_000 * 86_400_000 + 43_200_000
DAY = date(2024, 10, 4)
ANN = Payer(user_id="ann", task_id="t1")
MINUTE = 60_000


class Budget:
    def __init__(self, redis: Redis, limits: BudgetLimits | None = None) -> None:
        self._redis = redis
        self._limits = limits or BudgetLimits()

    async def reserve(
        self, rid: str, request: Request, model: str, payer: Payer, *, ttl_ms: int = 60_000, now_ms: int | None = None
    ) -> Reservation | Busy | Refused:
        call = reserve_call(rid, request, model, payer, self._limits, ttl_ms=ttl_ms, now_ms=now_ms)
        return await run(self._redis, call)

    async def settle(
        self, rid: str, charge: Charge, model: str, payer: Payer, *, now_ms: int | None = None
    ) -> Settlement:
        return await run(self._redis, settle_call(rid, charge, model, payer, self._limits, now_ms=now_ms))

    async def expire(self, n: int = 100, now_ms: int | None = None) -> Expiry:
        return await run(self._redis, expire_call(n, self._limits, now_ms))

    async def usage(self, day: date | None = None, payer: Payer | None = None, now_ms: int | None = None) -> Usage:
        return await run(self._redis, usage_call(self._limits, day, payer, now_ms))


async def limit_day(redis: Redis, tokens: int) -> None:
    """Set the fleet's daily limit, as `langgraph-producer budget set` does."""
    await run(redis, set_limit_call(BudgetLimits(), "global", tokens=tokens))


async def hold(budget, rid, tokens, cost=0, payer=ANN, now_ms=NOON, model="gpt-4o", **guess):
    output = Amount(guess.get("output", 0), guess.get("output_cost", 0))
    request = Request(Amount(tokens, cost), output, is_guess=bool(guess))
    return await budget.reserve(rid, request, model, payer, ttl_ms=MINUTE, now_ms=now_ms)


async def settle(budget, rid, input_tokens, output_tokens, cost, payer=ANN, model="gpt-4o", **charge):
    return await budget.settle(rid, Charge(input_tokens, output_tokens, cost, **charge), model, payer, now_ms=NOON)


async def spend(budget, rid, tokens, cost=0, payer=ANN, now_ms=NOON):
    assert isinstance(await hold(budget, rid, tokens, cost, payer, now_ms), Reservation)
    return await settle(budget, rid, tokens, 0, cost, payer)

"""Random histories of a budget: after every step Redis and the plain-Python model must agree."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis import Redis

from langgraph_rq.shared.budget.token_budget import (
    ALERTS,
    RESERVATIONS,
    Alert,
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Hold,
    Payer,
    Request,
    expire_call,
    reserve_call,
    settle_call,
    usage_call,
)
from langgraph_rq.shared.connections.scripts import Call, Script, run_sync
from tests.models.token_budget import DAY_MS, BudgetModel

LIMITS = st.builds(
    BudgetLimits,
    request_tokens=st.sampled_from([None, 100]),
    daily_tokens=st.sampled_from([None, 300, 485]),
    daily_cost_nano_usd=st.sampled_from([None, 500, 333]),
    user_daily_tokens=st.sampled_from([None, 150]),
    user_daily_cost_nano_usd=st.sampled_from([None, 201]),
    tenant_daily_tokens=st.sampled_from([None, 200]),
    tenant_daily_cost_nano_usd=st.sampled_from([None, 300]),
    task_tokens=st.sampled_from([None, 120]),
    task_cost_nano_usd=st.sampled_from([None, 99]),
    alert_percents=st.sampled_from([(), (50, 80, 95, 100), (1, 33, 100)]),
    utc_offset_s=st.sampled_from([0, -5 * 3600, 19_800]),
    hold=st.sampled_from(Hold),
)
PAYERS = [
    Payer(),
    Payer(user_id="acme:ann", task_id="t1"),
    Payer("acme", task_id="t2"),
    Payer("acme", user_id="ann", task_id="t1"),
    Payer("acme", user_id="ann"),
]
TTL_MS = 2000
TOKENS, COST = st.integers(0, 40), st.integers(0, 120)
AMOUNTS = st.builds(Amount, tokens=TOKENS, cost_nano_usd=COST)
OUTPUTS = st.builds(Amount, tokens=st.integers(0, 160), cost_nano_usd=COST) | st.just(Amount(0))
REQUESTS = st.builds(Request, input=AMOUNTS, output=OUTPUTS, is_guess=st.booleans())
CHARGES = st.builds(
    Charge,
    input_tokens=TOKENS,
    output_tokens=st.integers(0, 120),
    cost_nano_usd=COST,
    is_estimated=st.booleans(),
    text_bytes=st.integers(0, 64),
    text_tokens=TOKENS,
)
MODELS = st.sampled_from(["gpt-4o", "a model"])


class BudgetMachine(RuleBasedStateMachine):
    """`scripts` replaces scripts by mutants, by name."""

    def __init__(self, redis: Redis, scripts: Mapping[str, Script]) -> None:
        super().__init__()
        self.redis, self.scripts = redis, scripts
        self.rids = count()
        self.now = 20_000 * DAY_MS - 3000
        self.alerts: list[Alert] = []
        self.busy: dict[str, tuple[Request, str, Payer]] = {}

    @initialize(limits=LIMITS)
    def start_with_an_unused_budget(self, limits: BudgetLimits) -> None:
        self.redis.flushdb()
        self.limits = limits
        self.model = BudgetModel(limits)

    @rule(request=REQUESTS, model=MODELS, payer=st.sampled_from(PAYERS))
    def reserve(self, request: Request, model: str, payer: Payer) -> None:
        self._reserve(f"t:1:{next(self.rids)}", request, model, payer)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def reserve_again(self, data: st.DataObject) -> None:
        rid = self._some_rid(data)
        entry = self.model.entries[rid]
        self._reserve(rid, entry.request, entry.model, entry.payer)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        rid = data.draw(st.sampled_from(sorted(self.busy)))
        self._reserve(rid, *self.busy.pop(rid))

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data(), charge=CHARGES)
    def settle_in_any_order_and_more_than_once(self, data: st.DataObject, charge: Charge) -> None:
        self._settle(self._some_rid(data), charge)

    @precondition(lambda self: self.model.live())
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        self._settle(data.draw(st.sampled_from(sorted(self.model.live()))), Charge(0, 0))

    @rule(charge=CHARGES, model=MODELS, payer=st.sampled_from(PAYERS))
    def settle_what_redis_has_lost(self, charge: Charge, model: str, payer: Payer) -> None:
        self._settle(f"t:1:{next(self.rids)}", charge, model, payer)

    @rule(n=st.integers(1, 3))
    def expire_some(self, n: int) -> None:
        self._expire(n)

    @rule()
    def drain(self) -> None:
        self.now += TTL_MS
        self._expire(1000)
        hashes = [
            key for key in self.redis.scan_iter("agent:budget:*", _type="hash") if key != b"agent:budget:model_stats"
        ]
        assert {self.redis.hget(key, f"held_{unit}") for key in hashes for unit in ("tokens", "cost")} <= {None, b"0"}

    @rule(ms=st.sampled_from([1, 999, 1000, 3000, 20_000, DAY_MS // 2]))
    def wait(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: self.model.live())
    @rule(ms=st.sampled_from([-1, 0]))
    def wait_for_the_next_reservation_to_end(self, ms: int) -> None:
        self.now = max(self.now, min(entry.ends_at for entry in self.model.live().values()) + ms)

    @invariant()
    def a_reader_sees_what_the_model_holds(self) -> None:
        today = self._run(usage_call(self.limits, now_ms=self.now)).day
        assert today == self.model.usage((self.now + self.limits.utc_offset_s * 1000) // DAY_MS, None).day
        users = {(entry.day, Payer(entry.payer.tenant, entry.payer.user_id)) for entry in self.model.entries.values()}
        for day, payer in users | {(day, None) for day, _ in users}:
            usage = self.model.usage(day, payer)
            assert self._run(usage_call(self.limits, usage.day, payer)) == usage

    @invariant()
    def tasks_hold_what_the_model_holds(self) -> None:
        for task in {entry.payer.task for entry in self.model.entries.values()} - {""}:
            booked = self.redis.hmget(
                f"agent:budget:task:{task}", "used_tokens", "held_tokens", "used_cost", "held_cost"
            )
            account = ("task", task)
            meters = [self.model.meter("task", account, unit) for unit in ("tokens", "cost")]
            assert [int(value or 0) for value in booked] == [n for meter in meters for n in (meter.used, meter.held)]

    @invariant()
    def live_reservations_are_those_of_the_model(self) -> None:
        ends = {rid.encode(): entry.ends_at for rid, entry in self.model.live().items()}
        assert dict(self.redis.zrange(RESERVATIONS, 0, -1, withscores=True)) == ends

    @invariant()
    def each_alert_was_told_once_and_is_in_the_stream(self) -> None:
        keys = ("scope", "subject", "unit", "percent", "used", "limit")
        told = [tuple(str(getattr(alert, key)) for key in keys) for alert in self.alerts]
        stream = [tuple(entry[key.encode()].decode() for key in keys) for _, entry in self.redis.xrange(ALERTS)]
        assert told == stream

    def _some_rid(self, data: st.DataObject) -> str:
        # Counted from the newest, so that histories shrink and grow around what is live.
        rids = list(self.model.entries)
        return rids[-1 - data.draw(st.integers(0, len(rids) - 1), label="reservations ago")]

    def _reserve(self, rid: str, request: Request, model: str, payer: Payer) -> None:
        call = reserve_call(rid, request, model, payer, self.limits, ttl_ms=TTL_MS, now_ms=self.now)
        answer = self._run(call)
        assert answer == self.model.reserve(rid, request, model, payer, ttl_ms=TTL_MS, now_ms=self.now)
        if isinstance(answer, Busy):
            self.busy[rid] = request, model, payer

    def _settle(self, rid: str, charge: Charge, model: str = "gpt-4o", payer: Payer = PAYERS[0]) -> None:
        entry = self.model.entries.get(rid)
        if entry:
            model, payer = entry.model, entry.payer
        answer = self._run(settle_call(rid, charge, model, payer, self.limits, now_ms=self.now))
        assert answer == self.model.settle(rid, charge, model, payer, now_ms=self.now)
        self.alerts += answer.alerts

    def _expire(self, n: int) -> None:
        answer = self._run(expire_call(n, self.limits, self.now))
        assert answer == self.model.expire(n, self.now)
        self.alerts += answer.alerts

    def _run(self, call: Call[Any]) -> Any:
        return run_sync(self.redis, call._replace(script=self.scripts.get(call.script.name, call.script)))

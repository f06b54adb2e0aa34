"""The token budget in plain Python: a list of reservations; every meter is a sum over it."""

import math
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Literal

from langgraph_rq.shared.budget.limits import DEFAULT_TENANT
from langgraph_rq.shared.budget.model_stats import ModelStats
from langgraph_rq.shared.budget.token_budget import (
    Alert,
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Expiry,
    Hold,
    Meter,
    ModelUsage,
    Payer,
    Refused,
    Request,
    Reservation,
    Settlement,
    Usage,
)

DAY_MS = 86_400_000
NOTHING = Amount(0)


UNITS: tuple[Literal["tokens", "cost"], ...] = ("tokens", "cost")
BUCKETS = 24
WAIT_MS, LEAST_GUESS = 3000, 64


@dataclass
class Entry:
    """One reservation; `charged` is what it counts as used, once it is not held any more."""

    day: int
    model: str
    payer: Payer
    request: Request
    ends_at: int
    reserved: Amount = NOTHING
    on_record: Amount | None = None
    """What was charged when it expired, which then stands in its record; None: what it holds does."""
    state: Literal["held", "expired", "settled"] = "held"
    charged: Amount = NOTHING
    input_tokens: int = 0
    output_tokens: int = 0
    expired_tokens: int = 0
    estimated: bool = False
    is_call: bool = False
    has_tenant: bool = True
    """Whether its tenant is booked too."""

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """The accounts that this reservation is booked on, narrowest first."""
        day = str(self.day)
        accounts = {
            "user": ("user", day, self.payer.user),
            "global": ("global", day),
        }
        if self.has_tenant:
            accounts = {"user": accounts["user"], "tenant": ("tenant", day, self.payer.encoded_tenant), **accounts}
        return {"task": ("task", self.payer.task), **accounts} if self.payer.task else accounts


@dataclass
class BudgetModel:
    limits: BudgetLimits
    entries: dict[str, Entry] = field(default_factory=dict)
    raised: dict[tuple[tuple[str, ...], str], list[int]] = field(default_factory=dict)
    waiters: dict[tuple[str, ...], tuple[str, Amount, int]] = field(default_factory=dict)
    """The first call that waits for each account's limit, what it asked for, and until when it is the first."""
    known: dict[str, list[Charge]] = field(default_factory=dict)
    """The calls of each model whose usage was reported, in order; fewer than would be halved."""

    def reserve(
        self, rid: str, request: Request, model: str, payer: Payer, *, ttl_ms: int, now_ms: int
    ) -> Reservation | Busy | Refused:
        if rid not in self.entries:
            entry = Entry(self._day(now_ms), model, self._booked(payer), request, now_ms + ttl_ms)
            entry.has_tenant = self._has_tenant(payer)
            answer = self._grant(rid, entry, now_ms)
            if answer:
                return replace(answer, stats=self.stats(model))
            self.entries[rid] = entry
            self.waiters = {account: one for account, one in self.waiters.items() if one[0] != rid}
        entry = self.entries[rid]
        on_record = entry.reserved if entry.on_record is None else entry.on_record
        output_tokens = on_record.tokens - entry.request.input.tokens
        return Reservation(rid, self._fill(entry), on_record, output_tokens, self.stats(entry.model))

    def _grant(self, rid: str, entry: Entry, now_ms: int) -> Busy | Refused | None:
        """Shrink what is guessed until it fits beside what is used; say what does not fit."""
        request, output = entry.request, entry.request.output
        least = min(LEAST_GUESS, output.tokens) if request.is_guess else output.tokens
        price = output.cost_nano_usd / output.tokens if output.tokens else 0.0
        lefts = [] if self.limits.request_tokens is None else [("request", "tokens", self.limits.request_tokens, 0, 0)]
        for scope, account in entry.scopes().items():
            for unit in UNITS:
                limit = self.limit(scope, unit)
                if limit is not None:
                    lefts.append((scope, unit, limit, self.used(account, unit), self.held(account, unit)))
        for scope, unit, limit, used, held in lefts:
            room = limit - used - _of(request.input, unit)
            if _of(output, unit) > room:
                tokens = room if unit == "tokens" else math.floor(room / price) if price else 0
                if not request.is_guess or tokens < least:
                    least_of = {"tokens": least, "cost": 0} if request.is_guess else {unit: _of(output, unit)}
                    requested = _of(request.input, unit) + least_of[unit]
                    return Refused(rid, scope, unit, limit, used, held, requested, self._resets_at(scope, entry.day))
                output = Amount(min(tokens, output.tokens), math.floor(price * min(tokens, output.tokens)))
        entry.reserved = Amount(
            request.input.tokens + output.tokens, request.input.cost_nano_usd + output.cost_nano_usd
        )
        for scope, unit, limit, used, held in lefts[self.limits.request_tokens is not None :]:
            account, requested = entry.scopes()[scope], _of(entry.reserved, unit)
            kept = self._kept(account, rid, now_ms)
            if used + held + _of(kept or NOTHING, unit) + requested > limit:
                if kept is None:
                    self.waiters[account] = (rid, entry.reserved, now_ms + WAIT_MS)
                taken = held + _of(kept or NOTHING, unit)
                return Busy(rid, scope, unit, limit, used, taken, requested, self._resets_at(scope, entry.day))
        return None

    def _kept(self, account: tuple[str, ...], rid: str, now_ms: int) -> Amount | None:
        first, amount, ends_at = self.waiters.get(account, (rid, NOTHING, now_ms))
        return amount if first != rid and ends_at > now_ms else None

    def _day(self, now_ms: int) -> int:
        return (now_ms + self.limits.utc_offset_s * 1000) // DAY_MS

    def _booked(self, payer: Payer) -> Payer:
        return payer if (self.limits.task_tokens or self.limits.task_cost_nano_usd) else replace(payer, task_id=None)

    def _has_tenant(self, payer: Payer) -> bool:
        is_limited = self.limits.tenant_daily_tokens or self.limits.tenant_daily_cost_nano_usd
        return bool(is_limited) or payer.tenant != DEFAULT_TENANT

    def _resets_at(self, scope: str, day: int) -> int | None:
        return None if scope in {"task", "request"} else self.resets_at_ms(day)

    def stats(self, model: str) -> ModelStats:
        calls = self.known.get(model, [])
        if not calls:
            return ModelStats()
        outputs = [0] * BUCKETS
        bounds = [8 * 1.5**i for i in range(BUCKETS)]
        for call in calls:
            outputs[next((i for i, most in enumerate(bounds) if call.output_tokens <= most), BUCKETS - 1)] += 1
        return ModelStats(
            len(calls),
            sum(call.output_tokens for call in calls),
            sum(call.text_bytes for call in calls),
            sum(call.text_tokens for call in calls),
            tuple(outputs),
        )

    def _fill(self, entry: Entry) -> int:
        return max(
            (
                (self.used(account, unit) + self.held(account, unit)) * 1000 // limit
                for scope, account in entry.scopes().items()
                for unit in UNITS
                if (limit := self.limit(scope, unit)) is not None
            ),
            default=0,
        )

    def settle(self, rid: str, charge: Charge, model: str, payer: Payer, *, now_ms: int) -> Settlement:
        entry = self.entries.get(rid)
        is_call = charge.input_tokens + charge.output_tokens > 0 or charge.cost_nano_usd > 0
        if entry is None:
            if not is_call:
                return Settlement("lost", NOTHING, ())
            entry = Entry(self._day(now_ms), model, self._booked(payer), Request(NOTHING), now_ms)
            entry.state, outcome, entry.has_tenant = "settled", "lost", self._has_tenant(payer)
            self.entries[rid] = entry
        elif entry.state == "settled":
            return Settlement("repeated", NOTHING, ())
        else:
            outcome = "settled" if entry.state == "held" else "corrected"
        before = entry.reserved if entry.state == "held" else entry.charged
        entry.input_tokens, entry.output_tokens, entry.expired_tokens = charge.input_tokens, charge.output_tokens, 0
        entry.estimated, entry.is_call = charge.is_estimated and is_call, is_call
        alerts = self._charge(
            entry, "settled", Amount(charge.input_tokens + charge.output_tokens, charge.cost_nano_usd)
        )
        if is_call and not charge.is_estimated:
            self.known.setdefault(entry.model, []).append(charge)
        over = Amount(
            max(0, entry.charged.tokens - before.tokens),
            max(0, entry.charged.cost_nano_usd - before.cost_nano_usd),
        )
        return Settlement(outcome, over, alerts)

    def expire(self, n: int, now_ms: int) -> Expiry:
        due = sorted((entry.ends_at, rid) for rid, entry in self.live().items() if entry.ends_at <= now_ms)[:n]
        alerts: tuple[Alert, ...] = ()
        for _, rid in due:
            entry = self.entries[rid]
            charged = self._unknown_use(entry)
            entry.expired_tokens, entry.estimated, entry.is_call, entry.on_record = charged.tokens, True, True, charged
            alerts += self._charge(entry, "expired", charged)
        return Expiry(tuple(rid for _, rid in due), alerts)

    def _unknown_use(self, entry: Entry) -> Amount:
        if self.limits.hold is Hold.WORST:
            return entry.reserved
        stats, sent, held = self.stats(entry.model), entry.request.input, entry.reserved
        output = held.tokens - sent.tokens
        mean = min(output, -(-stats.output_tokens // stats.calls)) if stats.calls else 0
        price = (held.cost_nano_usd - sent.cost_nano_usd) / output if output else 0.0
        return Amount(sent.tokens + mean, min(held.cost_nano_usd, sent.cost_nano_usd + math.ceil(price * mean)))

    def _charge(self, entry: Entry, state: Literal["expired", "settled"], charged: Amount) -> tuple[Alert, ...]:
        entry.state, entry.charged = state, charged
        alerts = []
        for scope, account in entry.scopes().items():
            for unit in UNITS:
                limit, used = self.limit(scope, unit), self.used(account, unit)
                raised = self.raised.setdefault((account, unit), [])
                for percent in self.limits.alert_percents if limit else ():
                    if percent not in raised and used * 100 >= limit * percent:
                        raised.append(percent)
                        subject = {
                            "task": entry.payer.task,
                            "user": entry.payer.user,
                            "tenant": entry.payer.encoded_tenant,
                            "global": "",
                        }[scope]
                        alerts.append(Alert(scope, subject, unit, percent, used, limit, _date(entry.day)))
        return tuple(alerts)

    def live(self) -> dict[str, Entry]:
        return {rid: entry for rid, entry in self.entries.items() if entry.state == "held"}

    def used(self, account: tuple[str, ...], unit: str) -> int:
        return sum(_of(entry.charged, unit) for entry in self.entries.values() if account in entry.scopes().values())

    def held(self, account: tuple[str, ...], unit: str) -> int:
        return sum(_of(entry.reserved, unit) for entry in self.live().values() if account in entry.scopes().values())

    def limit(self, scope: str, unit: str) -> int | None:
        prefix = {"global": "daily", "tenant": "tenant_daily", "user": "user_daily", "task": "task"}[scope]
        return getattr(self.limits, f"{prefix}_{'tokens' if unit == 'tokens' else 'cost_nano_usd'}")

    def resets_at_ms(self, day: int) -> int:
        return (day + 1) * DAY_MS - self.limits.utc_offset_s * 1000

    def meter(self, scope: str, account: tuple[str, ...], unit: str) -> Meter:
        raised = tuple(self.raised.get((account, unit), []))
        return Meter(self.used(account, unit), self.held(account, unit), self.limit(scope, unit), raised)

    def usage(self, day: int, payer: Payer | None) -> Usage:
        scope = "user" if payer else "global"
        account = (scope, str(day), payer.user) if payer else (scope, str(day))
        models = () if payer else self._models(day)
        meters = (self.meter(scope, account, unit) for unit in UNITS)
        return Usage(_date(day), self.resets_at_ms(day), *meters, models)

    def _models(self, day: int) -> tuple[ModelUsage, ...]:
        counted = [entry for entry in self.entries.values() if entry.day == day and entry.is_call]
        by_model = {name: [entry for entry in counted if entry.model == name] for name in {e.model for e in counted}}
        return tuple(
            ModelUsage(
                model=name,
                input_tokens=sum(entry.input_tokens for entry in entries),
                output_tokens=sum(entry.output_tokens for entry in entries),
                expired_tokens=sum(entry.expired_tokens for entry in entries),
                calls=len(entries),
                estimated_calls=sum(entry.estimated for entry in entries),
                cost_nano_usd=sum(entry.charged.cost_nano_usd for entry in entries),
            )
            for name, entries in sorted(by_model.items())
        )


def _of(amount: Amount, unit: str) -> int:
    return amount.tokens if unit == "tokens" else amount.cost_nano_usd


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)

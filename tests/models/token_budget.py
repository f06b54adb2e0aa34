"""The token budget in plain Python: a list of reservations; every meter is a sum over it."""

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Literal

from langgraph_rq.shared.budget.token_budget import (
    Alert,
    Amount,
    BudgetLimits,
    Expiry,
    Meter,
    ModelUsage,
    Payer,
    Refused,
    Reservation,
    Settlement,
    Usage,
)

DAY_MS = 86_400_000
NOTHING = Amount(0)


@dataclass
class Entry:
    """One reservation; `charged` is what it counts as used, once it is not held any more."""

    day: int
    model: str
    payer: Payer
    reserved: Amount
    ends_at: int
    state: Literal["held", "expired", "settled"] = "held"
    charged: Amount = NOTHING
    input_tokens: int = 0
    output_tokens: int = 0
    expired_tokens: int = 0
    estimated: bool = False

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """The accounts that this reservation is booked on, narrowest first."""
        accounts = {"user": ("user", str(self.day), self.payer.user), "global": ("global", str(self.day))}
        return {"task": ("task", self.payer.task), **accounts} if self.payer.task else accounts


@dataclass
class BudgetModel:
    limits: BudgetLimits
    entries: dict[str, Entry] = field(default_factory=dict)
    raised: dict[tuple[tuple[str, ...], str], list[int]] = field(default_factory=dict)

    def reserve(
        self, rid: str, amount: Amount, model: str, payer: Payer, *, ttl_ms: int, now_ms: int
    ) -> Reservation | Refused:
        day = (now_ms + self.limits.utc_offset_s * 1000) // DAY_MS
        entry = Entry(day, model, payer if self.limits.has_task_limit else replace(payer, task_id=None), amount, now_ms)
        entry.ends_at += ttl_ms
        if rid not in self.entries:
            refusal = self._refusal(rid, entry)
            if refusal:
                return refusal
            self.entries[rid] = entry
        return Reservation(rid, self._fill(entry))

    def _refusal(self, rid: str, entry: Entry) -> Refused | None:
        most = self.limits.request_tokens
        if most is not None and entry.reserved.tokens > most:
            return Refused(rid, "request", "tokens", most, 0, 0, entry.reserved.tokens, None)
        for scope, account in entry.scopes().items():
            for unit in ("tokens", "cost"):
                limit = self.limit(scope, unit)
                used, held = self.used(account, unit), self.held(account, unit)
                requested = _of(entry.reserved, unit)
                if limit is not None and used + held + requested > limit:
                    resets_at = None if scope == "task" else self.resets_at_ms(entry.day)
                    return Refused(rid, scope, unit, limit, used, held, requested, resets_at)
        return None

    def _fill(self, entry: Entry) -> int:
        return max(
            (
                (self.used(account, unit) + self.held(account, unit)) * 1000 // limit
                for scope, account in entry.scopes().items()
                for unit in ("tokens", "cost")
                if (limit := self.limit(scope, unit)) is not None
            ),
            default=0,
        )

    def settle(self, rid: str, input_tokens: int, output_tokens: int, cost: int, *, estimated: bool) -> Settlement:
        entry = self.entries.get(rid)
        if entry is None:
            return Settlement("unknown", NOTHING, ())
        if entry.state == "settled":
            return Settlement("repeated", NOTHING, ())
        outcome = "settled" if entry.state == "held" else "corrected"
        entry.input_tokens, entry.output_tokens, entry.expired_tokens = input_tokens, output_tokens, 0
        entry.estimated = estimated
        alerts = self._charge(entry, "settled", Amount(input_tokens + output_tokens, cost))
        over = Amount(
            max(0, entry.charged.tokens - entry.reserved.tokens),
            max(0, entry.charged.cost_nano_usd - entry.reserved.cost_nano_usd),
        )
        return Settlement(outcome, over, alerts)

    def expire(self, n: int, now_ms: int) -> Expiry:
        due = sorted((entry.ends_at, rid) for rid, entry in self.live().items() if entry.ends_at <= now_ms)[:n]
        alerts: tuple[Alert, ...] = ()
        for _, rid in due:
            entry = self.entries[rid]
            entry.expired_tokens = entry.reserved.tokens
            alerts += self._charge(entry, "expired", entry.reserved)
        return Expiry(tuple(rid for _, rid in due), alerts)

    def _charge(self, entry: Entry, state: Literal["expired", "settled"], charged: Amount) -> tuple[Alert, ...]:
        entry.state, entry.charged = state, charged
        alerts = []
        for scope, account in entry.scopes().items():
            for unit in ("tokens", "cost"):
                limit, used = self.limit(scope, unit), self.used(account, unit)
                raised = self.raised.setdefault((account, unit), [])
                for percent in self.limits.alert_percents if limit else ():
                    if percent not in raised and used * 100 >= limit * percent:
                        raised.append(percent)
                        subject = {"task": entry.payer.task, "user": entry.payer.user, "global": ""}[scope]
                        alerts.append(Alert(scope, subject, unit, percent, used, limit, _date(entry.day)))
        return tuple(alerts)

    def live(self) -> dict[str, Entry]:
        return {rid: entry for rid, entry in self.entries.items() if entry.state == "held"}

    def used(self, account: tuple[str, ...], unit: str) -> int:
        return sum(_of(entry.charged, unit) for entry in self.entries.values() if account in entry.scopes().values())

    def held(self, account: tuple[str, ...], unit: str) -> int:
        return sum(_of(entry.reserved, unit) for entry in self.live().values() if account in entry.scopes().values())

    def limit(self, scope: str, unit: str) -> int | None:
        prefix = {"global": "daily", "user": "user_daily", "task": "task"}[scope]
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
        meters = (self.meter(scope, account, unit) for unit in ("tokens", "cost"))
        return Usage(_date(day), self.resets_at_ms(day), *meters, models)

    def _models(self, day: int) -> tuple[ModelUsage, ...]:
        counted = [
            entry
            for entry in self.entries.values()
            if entry.day == day and (entry.state == "expired" or entry.charged != NOTHING)
        ]
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

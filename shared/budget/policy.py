"""The fleet's limits in Redis: read them, change them, and forget what was used today.

Every process obeys the policy, whatever its own settings say. The first call of the fleet writes the settings of its
process; from then on only these verbs change it. Keys: see token_budget.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph_rq.shared.budget.answers import text
from langgraph_rq.shared.budget.limits import Amount, BudgetLimits, Hold, Payer, check_amount
from langgraph_rq.shared.budget.usage import POLICY
from langgraph_rq.shared.connections.scripts import Call, load_script

LimitScope = Literal["request", "global", "tenant", "user", "task"]
_NO_LIMIT = "-"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on tokens and one on money; None is no limit."""

    tokens: int | None
    cost_nano_usd: int | None = None

    @classmethod
    def parse(cls, amounts: str) -> "Limit":
        """Read a value of the policy."""
        tokens, _, cost = amounts.partition(" ")
        return cls(_number(tokens), _number(cost or _NO_LIMIT))


@dataclass(frozen=True, slots=True)
class Policy:
    """The fleet's limits.

    Args:
        limits: For all tenants and users.
        own: Limits of single tenants and users, by `tenant:<tenant>` and `user:[<tenant>:]<user>`, encoded.
    """

    limits: BudgetLimits
    own: dict[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A limit before and after; `before` None: there was no limit of its own."""

    before: Limit | None
    after: Limit


class NotALimitError(ValueError):
    """A limit that cannot be set so; the message says what was expected."""


def read_policy_call() -> Call[Policy | None]:
    """Read the fleet's limits; None: no call was made yet, so that the first one's settings will be the limits."""
    return Call(load_script("shared/budget/scripts/read_policy"), [POLICY], [], _policy)


def set_limit_call(
    seed: BudgetLimits,
    scope: LimitScope,
    payer: Payer | None = None,
    *,
    tokens: int | Literal[""] | None = "",
    cost_nano_usd: int | Literal[""] | None = "",
    is_raise: bool = False,
) -> Call[Change]:
    """Set the limit of `scope`, or of one tenant or user; an empty amount stays as it is, None takes the limit away.

    Args:
        seed: The limits of this process, for a fleet that has made no call yet.
        scope: What is limited.
        payer: With `tenant` or `user`: only this one.
        tokens: Per day; of `request` and `task` in all.
        cost_nano_usd: Likewise.
        is_raise: Add the amounts to the limit instead, which leaves "no limit" as it is.
    """
    for name, amount in (("tokens", tokens), ("cost_nano_usd", cost_nano_usd)):
        if amount not in {None, ""}:
            check_amount(name, amount, least=1)  # type: ignore[arg-type]
    if scope == "request" and cost_nano_usd != "":
        raise NotALimitError("expected the limit of a request to be in tokens, got: an amount of money")
    amounts = [_written(amount, is_raise=is_raise) for amount in (tokens, cost_nano_usd)]
    return Call(
        load_script("shared/budget/scripts/set_limit"),
        [POLICY],
        [seed.encoded, _field(scope, payer), *amounts, 0],
        _change,
    )


def set_option_call(seed: BudgetLimits, option: Literal["hold", "utc_offset_s"], value: str) -> Call[tuple[str, str]]:
    """Set what calls hold, or when the day begins; return the value before and after. Workers read it at their start.

    Raises:
        ValueError: the value is none of this option's.
    """
    checked = Hold(value).value if option == "hold" else str(BudgetLimits(utc_offset_s=int(value)).utc_offset_s)
    script = load_script("shared/budget/scripts/set_limit")
    return Call(
        script, [POLICY], [seed.encoded, option, checked, "", 0], lambda reply: (text(reply[0]), text(reply[1]))
    )


def remove_limit_call(seed: BudgetLimits, scope: Literal["tenant", "user"], payer: Payer) -> Call[Change]:
    """Let a tenant or user have the limit for all of them again."""
    script = load_script("shared/budget/scripts/set_limit")
    return Call(script, [POLICY], [seed.encoded, _field(scope, payer), "", "", 1], _change)


def reset_used_call(
    seed: BudgetLimits,
    scope: Literal["global", "tenant", "user"],
    payer: Payer | None = None,
    now_ms: int | None = None,
) -> Call[Amount]:
    """Forget what the fleet, a tenant or a user has used today, and its alerts; answers how much it was."""
    subject = _subject(scope, payer) if payer else ""
    now = "" if now_ms is None else now_ms
    return Call(
        load_script("shared/budget/scripts/reset_used"),
        [POLICY],
        [seed.encoded, scope, subject, now],
        lambda reply: Amount(int(reply[1]), int(reply[2])),
    )


def _field(scope: LimitScope, payer: Payer | None) -> str:
    return f"{scope}:{_subject(scope, payer)}" if payer else scope


def _subject(scope: LimitScope, payer: Payer) -> str:
    if scope not in {"tenant", "user"}:
        raise NotALimitError(f"expected a tenant or a user to have a limit of its own, got: {scope}")
    return payer.user if scope == "user" else payer.encoded_tenant


def _written(amount: int | Literal[""] | None, *, is_raise: bool) -> str:
    if amount is None:
        return _NO_LIMIT
    return f"+{amount}" if is_raise and amount != "" else str(amount)


def _number(amount: str) -> int | None:
    return None if amount == _NO_LIMIT else int(amount)


def _policy(reply: Sequence[Any]) -> Policy | None:
    if not reply:
        return None
    fields = {text(name): text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}
    own = {name: Limit.parse(value) for name, value in sorted(fields.items()) if ":" in name}
    return Policy(BudgetLimits.of_policy(fields), own)


def _change(reply: Sequence[Any]) -> Change:
    before, after = (text(value) for value in reply)
    return Change(Limit.parse(before) if before else None, Limit.parse(after))

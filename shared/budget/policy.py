"""The fleet's limits in Redis: read them, change them, and forget what was used today.

Every process obeys the policy, whatever its own settings say. The first call of the fleet writes the settings of its
process; from then on only these verbs change it. Keys: see token_budget.py.

A value that was written there by hand may be unreadable. On such a limit no call starts (`Unreadable`): money is
not spent on a guess of what was meant. What is no limit falls back: the offset of the day to the caller's settings, the
hold to `worst`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph_rq.shared.budget.limits import NO_LIMIT, Amount, BudgetLimits, Hold, Payer, check_amount, whole_number
from langgraph_rq.shared.budget.usage import POLICY
from langgraph_rq.shared.connections.scripts import Call, load_script

LimitScope = Literal["request", "global", "tenant", "user", "task"]
_FOR_ALL = "="
"""In the limit of one tenant or user: the amount that holds for all of them."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on tokens and one on money; None is no limit."""

    tokens: int | None
    cost_nano_usd: int | None = None

    @classmethod
    def parse(cls, amounts: str) -> "Limit":
        """Read a value of the policy.

        Raises:
            NotALimitError: it cannot be read.
        """
        tokens, _, cost = amounts.partition(" ")
        return cls(_number(tokens), _number(cost or NO_LIMIT))


@dataclass(frozen=True, slots=True)
class Policy:
    """The fleet's limits.

    Args:
        limits: For all tenants and users.
        own: Limits of single tenants and users, by `tenant:<tenant>` and `user:[<tenant>:]<user>`, encoded.
        unreadable: Fields of the policy that cannot be read, with their values; in `limits` they
            are the caller's own, and the hold is `worst`.
    """

    limits: BudgetLimits
    own: dict[str, Limit] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A limit before and after; `before` None: there was no limit of its own."""

    before: Limit | None
    after: Limit


class NotALimitError(ValueError):
    """A limit that cannot be set so."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got: {got}")
        self.expected = expected
        self.got = got


def read_policy_call(seed: BudgetLimits | None = None, *, with_own: bool = True) -> Call[Policy | None]:
    """Read the fleet's limits; None: no call was made yet, so that the first one's settings will be the limits.

    Args:
        seed: The limits of this process, for what is missing or cannot be read.
        with_own: Read those of single tenants and users too, which may be many.
    """
    own = seed or BudgetLimits()
    names = "" if with_own else json.dumps(list(own.policy))
    return Call(load_script("shared/budget/scripts/read_policy"), [POLICY], [names], lambda reply: _policy(own, reply))


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

    Raises:
        NotALimitError: as the call's reply, when a raised limit would be too large, or the old one cannot be read.
    """
    for name, amount in (("tokens", tokens), ("cost_nano_usd", cost_nano_usd)):
        if amount not in {None, ""}:
            check_amount(name, amount, least=1)  # type: ignore[arg-type]
    if scope == "request" and cost_nano_usd != "":
        raise NotALimitError("the limit of a request to be in tokens", "an amount of money")
    amounts = [_written(amount, is_raise=is_raise) for amount in (tokens, cost_nano_usd)]
    return Call(
        load_script("shared/budget/scripts/set_limit"),
        [POLICY],
        [seed.encoded, _field(scope, payer), *amounts, 0],
        _change,
    )


def set_option_call(seed: BudgetLimits, option: Literal["hold", "utc_offset_s"], value: str) -> Call[tuple[str, str]]:
    """Set what calls hold, or when the day begins; return the value before and after.

    Raises:
        ValueError: the value is none of this option's.
    """
    checked = Hold(value).value if option == "hold" else str(BudgetLimits(utc_offset_s=int(value)).utc_offset_s)
    script = load_script("shared/budget/scripts/set_limit")
    return Call(
        script, [POLICY], [seed.encoded, option, checked, "", 0], lambda reply: (_shown(reply[1]), _shown(reply[2]))
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
        raise NotALimitError("a tenant or a user to have a limit of its own", scope)
    return payer.user if scope == "user" else payer.encoded_tenant


def _written(amount: int | Literal[""] | None, *, is_raise: bool) -> str:
    if amount is None:
        return NO_LIMIT
    return f"+{amount}" if is_raise and amount != "" else str(amount)


def _number(amount: str) -> int | None:
    if amount == NO_LIMIT:
        return None
    try:
        check_amount("a limit", number := whole_number(amount), least=1)
    except ValueError:
        raise NotALimitError("- or a whole number from 1 to 2**53 - 1", repr(amount)) from None
    return number


def _policy(seed: BudgetLimits, reply: Sequence[Any]) -> Policy | None:
    if not reply:
        return None
    fields = {_shown(name): _shown(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}
    readable, own, unreadable = dict(seed.policy), {}, {}
    for name in seed.policy.keys() & fields.keys():
        try:
            BudgetLimits.of_policy({**seed.policy, name: fields[name]})
        except ValueError:
            unreadable[name] = fields[name]
        else:
            readable[name] = fields[name]
    if "hold" in unreadable:
        readable["hold"] = Hold.WORST.value
    for name in sorted(name for name in fields if ":" in name):
        try:
            own[name] = _own(fields[name], readable[name.partition(":")[0]])
        except (ValueError, KeyError):
            unreadable[name] = fields[name]
    return Policy(BudgetLimits.of_policy(readable), own, unreadable)


def _own(limit: str, for_all: str) -> Limit:
    """Read the limit of one tenant or user."""
    amounts = zip(limit.split(" "), for_all.split(" "), strict=True)
    return Limit.parse(" ".join(of_all if amount == _FOR_ALL else amount for amount, of_all in amounts))


def _shown(value: bytes | str) -> str:
    """Read a value that may have been written by hand."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _change(reply: Sequence[Any]) -> Change:
    kind, *values = map(_shown, reply)
    if kind == "unreadable":
        raise NotALimitError("a limit that can be raised", f"{values[0]!r}; set it instead")
    if kind == "too_large":
        raise NotALimitError("a limit of at most 2**53 - 1", f"{values[0]} + {values[1]}")
    before, after = values
    return Change(Limit.parse(before) if before else None, Limit.parse(after))

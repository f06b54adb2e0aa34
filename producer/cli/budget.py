"""`langgraph-producer budget`: show and change the limits of the fleet, which every process obeys.

Reading changes nothing; the other commands write to Redis, need a Redis user that may, and go into the audit log.
"""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeVar, cast

import click

from langgraph_rq.producer.cli.connection import connected_redis
from langgraph_rq.producer.cli.payer import TENANT, USER
from langgraph_rq.producer.cli.views.budget import amount, limit_json, policy_json, policy_table
from langgraph_rq.producer.client.records import Records
from langgraph_rq.shared import terminal
from langgraph_rq.shared.budget.limits import DEFAULT_TENANT
from langgraph_rq.shared.budget.policy import (
    Change,
    Limit,
    LimitScope,
    NotALimitError,
    Policy,
    read_policy_call,
    remove_limit_call,
    reset_used_call,
    set_limit_call,
    set_option_call,
)
from langgraph_rq.shared.budget.token_budget import Amount, Hold, Payer, usage_call
from langgraph_rq.shared.connections.scripts import Call, run_many_sync, run_sync
from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.queue.waits import BUDGET, wake_all_call
from langgraph_rq.shared.settings import BudgetSettings, load
from langgraph_rq.shared.telemetry.audit import Action

_SCOPES = ("request", "task", "user", "tenant", "global")
_OPTIONS = ("hold", "utc_offset_s")
_NANO = 10**9
_MOST = 2**53 - 1
"""Tokens or nano-dollars: Lua counts no further without loss."""
_DIGITS = 16
"""Of the largest limit."""
_NONE = "none"
_EXIT_CODES = """
\b
Exit codes:
  0  done
  2  the input is wrong, or this Redis user may not do that
  3  Redis cannot be reached
"""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
_scope = click.argument("scope", type=click.Choice(_SCOPES))


def _one_payer(command: F) -> F:
    """Add the options that name one tenant or user."""
    tenant = click.option(
        "--tenant", type=TENANT, metavar="TENANT", help="Of this tenant, or of its user (default: default)."
    )
    user = click.option("--user", "user_id", type=USER, metavar="USER", help="Of this user only.")
    return tenant(user(command))


@click.group()
def budget() -> None:
    """Show and change the limits on tokens and money, which hold for the whole fleet.

    \b
    Examples:
      langgraph-producer budget show
      langgraph-producer budget set global 2000000 --usd 50
      langgraph-producer budget raise user 50000 --user ann
      langgraph-producer budget reset global
    """  # noqa: D301 - \b is the character that tells click to keep the lines


@budget.command(epilog=_EXIT_CODES)
@_one_payer
@_json_option
def show(tenant: str | None, user_id: str | None, *, as_json: bool) -> None:
    """Show the fleet's limits, or those of one tenant or user.

    \b
    Examples:
      langgraph-producer budget show
      langgraph-producer budget show --user ann --json

    Before the first call of a fleet they are this machine's settings (LGRQ_BUDGET_*).
    """  # noqa: D301
    own = load(BudgetSettings).limits()
    with connected_redis() as redis:
        policy = run_sync(redis, read_policy_call(own))
        if tenant or user_id:
            scope: Literal["user", "tenant"] = "user" if user_id else "tenant"
            used = run_sync(redis, usage_call(own, payer=Payer(tenant or DEFAULT_TENANT, user_id), scope=scope))
            limit = Limit(used.tokens.limit, used.cost.limit)
            found = {"scope": scope, "tenant": tenant or DEFAULT_TENANT, "user": user_id, **limit_json(limit)}
            found["unreadable"] = used.unreadable or None
            unreadable = f"; field {used.unreadable} cannot be read, so no call starts" if used.unreadable else ""
            terminal.write(found if as_json else f"{user_id or tenant}: {_words(limit)}{unreadable}")
            return
    shown = policy or Policy(own)
    is_set = policy is not None
    terminal.write(policy_json(shown, is_set=is_set) if as_json else policy_table(shown, is_set=is_set))


@budget.command("set", epilog=_EXIT_CODES)
@click.argument("scope", type=click.Choice([*_SCOPES, *_OPTIONS]))
@click.argument("value", required=False)
@click.option("--usd", help="US dollars, or none; not of a request.")
@click.option("--default", "is_default", is_flag=True, help="Give a tenant or user the limit of all others again.")
@_one_payer
@_json_option
def set_(
    scope: str,
    value: str | None,
    usd: str | None,
    tenant: str | None,
    user_id: str | None,
    *,
    is_default: bool,
    as_json: bool,
) -> None:
    """Set a limit of SCOPE to VALUE tokens; `none` takes the limit away.

    \b
    Examples:
      langgraph-producer budget set request 200000
      langgraph-producer budget set global 2000000 --usd 50
      langgraph-producer budget set user 100000               # of each user
      langgraph-producer budget set user 500000 --user ann
      langgraph-producer budget set user --user ann --default
      langgraph-producer budget set hold worst                # workers follow in half a minute
    """  # noqa: D301
    own = load(BudgetSettings).limits()
    if scope in _OPTIONS:
        if value is None or usd or tenant or user_id or is_default:
            raise InvalidInputError(Violation(scope, "one value and no option", value or "nothing"))
        option = cast(Literal["hold", "utc_offset_s"], scope)
        before, after = _change(_option_call(option, value), Action.LIMIT_CHANGED, scope=scope, value=value)
        done = {"scope": scope, "before": before, "after": after}
        terminal.write(done if as_json else f"{scope}: {before} -> {after}")
        return
    payer = _payer(scope, tenant, user_id)
    if is_default:
        if payer is None or value or usd:
            raise InvalidInputError(Violation("--default", "a tenant or user and no amount", value or usd or scope))
        call = remove_limit_call(own, cast(Literal["tenant", "user"], scope), payer)
    else:
        call = _set_call(scope, payer, value, usd, is_raise=False)
    change = _change(call, Action.LIMIT_CHANGED, **_details(scope, payer, value, usd))
    _write_change(scope, payer, change, as_json=as_json)


@budget.command("raise", epilog=_EXIT_CODES)
@_scope
@click.argument("value", required=False)
@click.option("--usd", help="US dollars; not of a request.")
@_one_payer
@_json_option
def raise_(
    scope: str, value: str | None, usd: str | None, tenant: str | None, user_id: str | None, *, as_json: bool
) -> None:
    """Add VALUE tokens to a limit of SCOPE; what has no limit keeps none.

    \b
    Examples:
      langgraph-producer budget raise global 500000 --usd 10
      langgraph-producer budget raise user 50000 --user ann
    """  # noqa: D301
    payer = _payer(scope, tenant, user_id)
    call = _set_call(scope, payer, value, usd, is_raise=True)
    change = _change(call, Action.LIMIT_CHANGED, **_details(scope, payer, f"+{value}" if value else None, usd))
    _write_change(scope, payer, change, as_json=as_json)


@budget.command(epilog=_EXIT_CODES)
@click.argument("scope", type=click.Choice(["user", "tenant", "global"]))
@_one_payer
@_json_option
def reset(
    scope: Literal["user", "tenant", "global"], tenant: str | None, user_id: str | None, *, as_json: bool
) -> None:
    """Forget what SCOPE has used today, so that its limit is free again; running calls keep what they hold.

    \b
    Examples:
      langgraph-producer budget reset global
      langgraph-producer budget reset user --user ann
    """  # noqa: D301
    payer = _payer(scope, tenant, user_id)
    if payer is None and scope != "global":
        raise InvalidInputError(Violation(scope, f"--{scope} to name one", "nothing"))
    call = reset_used_call(load(BudgetSettings).limits(), scope, payer)
    forgotten: Amount = _change(call, Action.USAGE_RESET, **_details(scope, payer))
    tokens, usd = forgotten.tokens, forgotten.cost_nano_usd / _NANO
    done = {**_names(scope, payer), "forgotten_tokens": tokens, "forgotten_usd": usd}
    terminal.write(done if as_json else f"{_title(scope, payer)}: forgot {tokens:,} tokens and ${usd:,.6f} of today")


def _change(call: Call[T], action: Action, **details: Any) -> T:
    """Run a change, record it in the audit log, and let tasks go on that wait for a budget."""
    records = Records.open().of(action, "", **details)
    with connected_redis() as redis:
        answer, *recorded = run_many_sync(redis, [call, *records])
        if isinstance(answer, NotALimitError):
            raise InvalidInputError(Violation("VALUE", answer.expected, answer.got))
        for one in (answer, *recorded):
            if isinstance(one, Exception):
                raise one
        cursor = run_sync(redis, wake_all_call(BUDGET))
        while cursor:
            cursor = run_sync(redis, wake_all_call(BUDGET, cursor))
    return cast(T, answer)


def _set_call(scope: str, payer: Payer | None, value: str | None, usd: str | None, *, is_raise: bool) -> Call[Change]:
    if value is None and usd is None:
        raise InvalidInputError(Violation("VALUE", "tokens, --usd, or both", "nothing"))
    if scope == "request" and usd is not None:
        raise InvalidInputError(Violation("--usd", "a scope other than request, whose limit is in tokens", usd))
    return set_limit_call(
        load(BudgetSettings).limits(),
        cast(LimitScope, scope),
        payer,
        tokens=_tokens(value, may_be_none=not is_raise),
        cost_nano_usd=_nano(usd, may_be_none=not is_raise),
        is_raise=is_raise,
    )


def _option_call(option: Literal["hold", "utc_offset_s"], value: str) -> Call[tuple[str, str]]:
    try:
        return set_option_call(load(BudgetSettings).limits(), option, value)
    except ValueError:
        expected = " or ".join(Hold) if option == "hold" else "seconds from -43200 to 50400"
        raise InvalidInputError(Violation(option, expected, value)) from None


def _payer(scope: str, tenant: str | None, user_id: str | None) -> Payer | None:
    """Return the one tenant or user that the options name; None: the limit for all of them."""
    if tenant is None and user_id is None:
        return None
    if scope == "user" and user_id:
        return Payer(tenant or DEFAULT_TENANT, user_id)
    if scope == "tenant" and tenant and not user_id:
        return Payer(tenant)
    raise InvalidInputError(Violation("--user and --tenant", "--user of user, --tenant of tenant", scope))


def _tokens(value: str | None, *, may_be_none: bool) -> int | Literal[""] | None:
    if value is None:
        return ""
    if value == _NONE and may_be_none:
        return None
    digits = value.replace(",", "")
    tokens = int(digits) if digits.isdecimal() and len(digits) <= _DIGITS else 0
    if not 1 <= tokens <= _MOST:
        raise _no_limit("VALUE", f"1 to {_MOST:,} tokens", value, may_be_none=may_be_none)
    return tokens


def _nano(usd: str | None, *, may_be_none: bool) -> int | Literal[""] | None:
    if usd is None:
        return ""
    if usd == _NONE and may_be_none:
        return None
    try:
        nano = int(Decimal(usd) * _NANO)
    except (InvalidOperation, ValueError, OverflowError):
        nano = 0
    if not 1 <= nano <= _MOST:
        raise _no_limit("--usd", f"0.000000001 to {_MOST // _NANO:,} US dollars", usd, may_be_none=may_be_none)
    return nano


def _no_limit(name: str, expected: str, got: str, *, may_be_none: bool) -> InvalidInputError:
    return InvalidInputError(Violation(name, expected + (", or none" if may_be_none else ""), got[:60]))


def _write_change(scope: str, payer: Payer | None, change: Change, *, as_json: bool) -> None:
    if as_json:
        before = limit_json(change.before) if change.before else None
        terminal.write({**_names(scope, payer), "before": before, "after": limit_json(change.after)})
    else:
        before_words = _words(change.before) if change.before else "the limit of all"
        terminal.write(f"{_title(scope, payer)}: {before_words} -> {_words(change.after)}")


def _names(scope: str, payer: Payer | None) -> dict[str, Any]:
    return {"scope": scope, "tenant": payer and payer.tenant, "user": payer and payer.user_id}


def _details(scope: str, payer: Payer | None, value: str | None = None, usd: str | None = None) -> dict[str, Any]:
    return {**_names(scope, payer), "tokens": value, "usd": usd}


def _title(scope: str, payer: Payer | None) -> str:
    return f"{scope} {payer.user_id or payer.tenant}" if payer else scope


def _words(limit: Limit) -> str:
    return f"{amount(limit.tokens)} tokens, {amount(limit.cost_nano_usd, _NANO)} US dollars"

"""What an API key lets its tenant do: the settings for tenants, or the fields of the key's line."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from langgraph_rq.producer.gateway.admission.rates import Rate, parse_rate
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.shares import Share
from langgraph_rq.shared.settings import TenantSettings
from langgraph_rq.shared.tasks import DEFAULT_TENANT, Priority


@dataclass(frozen=True, slots=True)
class Grant:
    """The limits of one tenant, as one key states them; counted for the tenant, whichever key is used."""

    tenant: str
    share: Share
    rate: Rate | None = None
    """Of all its users together; None: no limit."""
    priorities: frozenset[Priority] = frozenset(Priority)


def default_grant(tenant: str, settings: TenantSettings) -> Grant:
    """Read the settings for one tenant. The operator's own has no limit but its share of the memory."""
    share = settings.share(tenant)
    if tenant == DEFAULT_TENANT:
        return Grant(tenant, share)
    rate = parse_rate(settings.rate, "LGRQ_TENANT_RATE") if settings.rate else None
    return Grant(tenant, share, rate, _priorities(settings.priorities))


def change_grant(grant: Grant, fields: Iterable[str]) -> Grant:
    """Apply fields such as `rate=600/minute`. Raises SettingsError."""
    for field in fields:
        name, _, value = field.partition("=")
        if name not in _FIELDS:
            raise SettingsError(f"expected NAME=VALUE with a name of {', '.join(_FIELDS)}, got: {field[:60]}")
        grant = _FIELDS[name](grant, value)
    return grant


def _priorities(text: str) -> frozenset[Priority]:
    try:
        return frozenset(map(Priority, text.split(",")))
    except ValueError:
        raise SettingsError(f"priorities: expected some of {', '.join(Priority)}, got: {text[:60]}") from None


def _number(name: str, text: str) -> int:
    if text == "none":
        return 0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SettingsError(f"{name}: expected a number above 0, or none, got: {text[:60]}")
    return int(text)


def _with_tasks(grant: Grant, value: str) -> Grant:
    return replace(grant, share=replace(grant.share, tasks=_number("open_tasks", value)))


def _with_bytes(grant: Grant, value: str) -> Grant:
    return replace(grant, share=replace(grant.share, held_bytes=_number("held_bytes", value)))


def _with_rate(grant: Grant, value: str) -> Grant:
    return replace(grant, rate=None if value == "none" else parse_rate(value, "rate"))


def _with_priorities(grant: Grant, value: str) -> Grant:
    return replace(grant, priorities=_priorities(value))


_FIELDS: dict[str, Callable[[Grant, str], Grant]] = {
    "rate": _with_rate,
    "open_tasks": _with_tasks,
    "held_bytes": _with_bytes,
    "priorities": _with_priorities,
}

"""All settings classes: the check for unknown names, and the listing of values in force."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from pydantic import SecretStr

from langgraph_rq.shared.connections.masked_url import mask_url, mask_urls, mask_webhook
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings.environment import FILE_SUFFIX, PREFIX, Settings, read_env_file, source_of
from langgraph_rq.shared.settings.gateway import CorsSettings, DashboardSettings, GatewaySettings
from langgraph_rq.shared.settings.guards import BreakerSettings, BudgetSettings, PaceSettings
from langgraph_rq.shared.settings.models import AssistantSettings, CallSettings, ModelSettings
from langgraph_rq.shared.settings.redis import RedisSettings
from langgraph_rq.shared.settings.tasks import QueueSettings, TaskSettings
from langgraph_rq.shared.settings.telemetry import RedactionSettings, TelemetrySettings
from langgraph_rq.shared.settings.tenants import TenantSettings
from langgraph_rq.shared.settings.worker import StateSettings, WorkerSettings

ALL: tuple[type[Settings], ...] = (
    RedisSettings,
    QueueSettings,
    TaskSettings,
    TenantSettings,
    WorkerSettings,
    StateSettings,
    ModelSettings,
    CallSettings,
    BreakerSettings,
    PaceSettings,
    BudgetSettings,
    AssistantSettings,
    TelemetrySettings,
    RedactionSettings,
    GatewaySettings,
    CorsSettings,
    DashboardSettings,
)


def refuse_unknown_names(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse `LGRQ_` names that no class declares, in the environment and in `.env`, with a suggestion.

    Raises:
        SettingsError: naming each.
    """
    known = {name for settings in ALL for name in settings.names()}
    given = [*environ, *read_env_file()]
    problems = [
        f"{name}: unknown setting" + (f" (did you mean {close[0]}?)" if close else "")
        for name in dict.fromkeys(given)
        if name.upper().startswith(PREFIX) and name.upper().removesuffix(FILE_SUFFIX.upper()) not in known
        for close in [get_close_matches(name.upper(), known, n=1)]
    ]
    if problems:
        raise SettingsError("; ".join(problems))


class Effective(NamedTuple):
    """A setting in force, as people read it."""

    variable: str
    value: str
    """Secrets are masked; empty where there is none."""
    source: str
    """`option`, `environment`, the path of a file, or `default`."""
    description: str


def effective(settings: Iterable[Settings], options: Collection[str] = ()) -> Iterator[Effective]:
    """Yield the settings in force; those whose fields are in `options` came from the command line."""
    for one in settings:
        for variable, field in one.names().items():
            value = getattr(one, field)
            source = "option" if field in options else source_of(variable)
            description = type(one).model_fields[field].description or ""
            yield Effective(variable, "" if value is None else _shown(field, value), source, description)


def _shown(field: str, value: object) -> str:
    if not isinstance(value, SecretStr):
        return mask_url(str(value)) if field.endswith("_url") else mask_urls(str(value))
    if not field.endswith("_url"):
        return "***"
    url = value.get_secret_value()
    return mask_url(url) if field.endswith("redis_url") else mask_webhook(url)

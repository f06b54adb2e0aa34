"""What the checks look at: settings, environment, Redis, and the HTTP side of gateway, Prometheus and dashboard."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from redis import Redis

from langgraph_rq.shared import settings
from langgraph_rq.shared.announcements.guarded_models import GuardedModel
from langgraph_rq.shared.budget.limits import BudgetLimits
from langgraph_rq.shared.budget.policy import read_policy_call
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.queue.fleet import Fleet, fleet_call
from langgraph_rq.shared.queue.keys import MEMORY

PRIVATE_CA = Path("/run/secrets/ca.crt")
_TIMEOUT_S = 5.0
_HOUR_S, _DAY_HOURS, _LEAST_HOURS = 3600, 24, 6


@dataclass(frozen=True)
class Urls:
    """The addresses of the parts; None: not given, so not checked."""

    gateway: str | None = None
    prometheus: str | None = None
    dashboard: str | None = None


@dataclass(frozen=True)
class System:
    """One deployment, seen from where the doctor runs. Whatever is asked for is asked for once."""

    environ: Mapping[str, str]
    client: Redis
    checkpoint_client: Redis
    urls: Urls = Urls()
    ca: Path | None = None

    @cached_property
    def redis(self) -> settings.RedisSettings:
        """Where Redis is."""
        return settings.load(settings.RedisSettings)

    @cached_property
    def budget(self) -> BudgetLimits:
        """The fleet's limits on tokens and money; before its first call those of the settings here."""
        policy = run_sync(self.client, read_policy_call())
        return policy.limits if policy else settings.load(settings.BudgetSettings).limits()

    @cached_property
    def fleet(self) -> Fleet:
        """The live workers, with what they announce."""
        return run_sync(self.client, fleet_call())

    @cached_property
    def guarded(self) -> dict[str, GuardedModel]:
        """The models whose calls live workers guard, by breaker; where two call one differently, the best of both."""
        models: dict[str, GuardedModel] = {}
        for worker in self.fleet.workers:
            for breaker, model in worker.guarded.models.items():
                models[breaker] = models[breaker] | model if breaker in models else model
        return models

    @cached_property
    def unguarded_graphs(self) -> list[str]:
        """The graphs of which no live worker has announced a guarded model."""
        graphs = {graph for worker in self.fleet.workers for graph in worker.graphs}
        return sorted(graphs - {graph for one in self.fleet.workers if one.guarded.models for graph in one.graphs})

    @cached_property
    def gateway(self) -> settings.GatewaySettings:
        """The gateway's settings."""
        return settings.load(settings.GatewaySettings)

    @cached_property
    def telemetry(self) -> settings.TelemetrySettings:
        """Metrics, audit and alerts."""
        return settings.load(settings.TelemetrySettings)

    @cached_property
    def info(self) -> dict[str, Any]:
        """What INFO says."""
        info: Any = self.client.info("everything")
        return dict(info)

    def memory_growth(self, client: Redis, used: int) -> float | None:
        """By how many bytes a day a Redis grows that uses so many now, since about a day ago; None: not known yet.

        It is known after 6 hours.
        """
        noted: Any = client.hgetall(MEMORY)
        hours = {int(hour): int(then) for hour, then in noted.items() if hour.isdigit() and then.isdigit()}
        time: Any = client.time()
        now = int(time[0]) / _HOUR_S
        ages = {now - hour: then for hour, then in hours.items() if now - hour >= _LEAST_HOURS}
        if not ages:
            return None
        # About a day ago, so that busy and quiet hours even out.
        age = min(ages, key=lambda hours: abs(hours - _DAY_HOURS))
        return (used - ages[age]) * _DAY_HOURS / age

    @cached_property
    def checkpoint_info(self) -> dict[str, Any]:
        """What INFO of the checkpoints' Redis says."""
        info: Any = self.checkpoint_client.info("everything")
        return dict(info)

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        """Those that are trusted; to read them takes 30 ms."""
        return ssl.create_default_context(cafile=str(self.ca) if self.ca else None)

    def get(self, url: str) -> tuple[int, bytes]:
        """Ask for `url`; answers status and body, also of an error. Raises OSError when nothing answers."""
        try:
            with urlopen(Request(url), timeout=_TIMEOUT_S, context=self._certificates) as answer:  # noqa: S310 - an operator's URL
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()
        except HTTPException as error:
            raise OSError(f"it answers no HTTP: {type(error).__name__}") from None

    @cached_property
    def targets(self) -> list[dict[str, Any]]:
        """Prometheus' targets. Raises OSError."""
        return self._prometheus("/api/v1/targets", "activeTargets")

    @cached_property
    def rules(self) -> list[dict[str, Any]]:
        """Prometheus' rules. Raises OSError."""
        return [rule for group in self._prometheus("/api/v1/rules", "groups") for rule in group["rules"]]

    @cached_property
    def alertmanagers(self) -> list[dict[str, Any]]:
        """The Alertmanagers to which Prometheus sends alerts. Raises OSError."""
        return self._prometheus("/api/v1/alertmanagers", "activeAlertmanagers")

    def _prometheus(self, path: str, name: str) -> list[dict[str, Any]]:
        status, body = self.get(f"{self.urls.prometheus}{path}")
        if status != 200:
            raise OSError(f"Prometheus answered {status}")
        try:
            return list(json.loads(body)["data"][name])
        except (ValueError, LookupError, TypeError):
            raise OSError(f"expected Prometheus, got another server's answer to {path}") from None

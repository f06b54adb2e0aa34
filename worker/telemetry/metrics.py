"""Metrics of a worker process, counted from its own log events, so that a count and a line cannot disagree."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from langgraph_rq.shared.telemetry import logs
from langgraph_rq.shared.telemetry.logs import Listener
from langgraph_rq.shared.telemetry.metrics import WORKER, Bounded, Metric, build
from langgraph_rq.worker.telemetry.metrics_server import Answer

Fields = Mapping[str, Any]

_COUNTED = {
    "task.released": "agent_released_total",
    "task.pays_again": "agent_paid_again_total",
    "task.reaped": "agent_reaped_total",
    "task.fenced": "agent_fenced_total",
    "task.swept": "agent_swept_total",
    "command.refused": "agent_commands_refused_total",
}
_OUTAGES = ("claim.failed", "commit.delayed", "lease.not_renewed", "queue.not_watched")
_BREAKER = {"breaker.opened": "open", "breaker.half_opened": "half_open", "breaker.closed": "closed"}


class Series:
    """The time series of one counter or histogram, by the values of their labels.

    They are kept here: prometheus_client's `labels()` takes a lock and several times as long.

    Args:
        metric: Its name, kind, labels and buckets.
        bounds: Limits the values of each label.
        registry: Where it is registered.
    """

    def __init__(self, metric: Metric, bounds: Mapping[str, Bounded], registry: CollectorRegistry) -> None:
        self._metric = build(metric, registry)
        self._bounds = [bounds[label] for label in metric.labels]
        self._known: dict[tuple[object, ...], Any] = {} if metric.labels else {(): self._metric}

    def __call__(self, *labels: object) -> Any:
        """Return the Counter or the Histogram to count in."""
        return self._known.get(labels) or self._find(labels)

    def _find(self, labels: tuple[object, ...]) -> Any:
        values = tuple(bound(value) for bound, value in zip(self._bounds, labels, strict=True))
        return self._known.setdefault(values, self._metric.labels(*values))


class WorkerMetrics:
    """The metrics of one process, in a registry of its own.

    Args:
        in_flight: Returns the number of running tasks.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        disable_created_metrics()  # type: ignore[no-untyped-call] # a second series of each counter, for its age
        bounds = {label: Bounded() for metric in WORKER for label in metric.labels}
        self._series: dict[str, Series] = {}
        for metric in WORKER:
            if metric.kind == "gauge":
                build(metric, self.registry).set_function(in_flight)
            else:
                self._series[metric.name] = Series(metric, bounds, self.registry)
        for scope, unit in product(("global", "user", "task"), ("tokens", "cost", "hour_cost")):
            self._series["agent_budget_alerts_total"](scope, unit)  # an alert looks for the step from 0 to 1

    def listen(self) -> AbstractContextManager[None]:
        """Count in the thread that writes the lines, while the block runs."""
        counts: dict[str, Listener] = {
            "task.started": self._started,
            "task.completed": self._ended,
            "task.failed": self._ended,
            "node.completed": self._node,
            "node.failed": self._node,
            "loop.blocked": self._blocked,
            "model.called": self._called,
            "model.retried": lambda fields: self._add("agent_retries_total", fields["model"]),
            "answer.replayed": lambda fields: self._add("agent_answers_replayed_total", fields["model"]),
            "call.replayed": lambda fields: self._add("agent_once_calls_total", fields["service"], "replayed"),
            "call.unknown": lambda fields: self._add("agent_once_calls_total", fields["service"], "unknown"),
            "model.fell_back": lambda fields: self._add("agent_fallbacks_total", fields["model"]),
            "signature.refused": lambda fields: self._add("agent_signatures_refused_total", fields["reason"]),
            "budget.refused": lambda fields: self._add("agent_budget_refusals_total", fields["scope"]),
            "budget.alerted": self._alerted,
            "lines.dropped": lambda fields: self._series["agent_log_lines_dropped_total"]().inc(fields["lines"]),
            "alert.posted": lambda fields: self._add("agent_alert_posts_total", fields["outcome"]),
        }
        for event, name in _COUNTED.items():
            counts[event] = lambda _fields, name=name: self._add(name)  # type: ignore[misc]
        for event in _OUTAGES:
            counts[event] = lambda _fields, event=event: self._add("agent_redis_errors_total", event)  # type: ignore[misc]
        for event, state in _BREAKER.items():
            counts[event] = lambda fields, state=state: self._turned(fields, state)  # type: ignore[misc]
        return logs.queued(counts)

    def page(self) -> Answer:
        """Answer a scrape."""
        return 200, CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def _add(self, name: str, *labels: object) -> None:
        self._series[name](*labels).inc()

    def _observe(self, name: str, ms: float, *labels: object) -> None:
        self._series[name](*labels).observe(max(0, ms) / 1000)

    def _started(self, fields: Fields) -> None:
        if fields["attempt"] == 1:
            self._observe("agent_queue_wait_seconds", fields["queued_ms"])

    def _ended(self, fields: Fields) -> None:
        graph = fields.get("graph") or "unknown"
        self._add("agent_requests_total", graph, fields["state"])
        if "total_ms" in fields:
            self._observe("agent_latency_seconds", fields["total_ms"], graph)
        if fields.get("error"):
            self._add("agent_errors_total", fields["error"])

    def _node(self, fields: Fields) -> None:
        self._observe("agent_node_seconds", fields["duration_ms"], fields.get("graph", "unknown"), fields["node"])

    def _blocked(self, fields: Fields) -> None:
        self._add("agent_loop_blocked_total", fields.get("graph", "unknown"), fields.get("node", "unknown"))

    def _called(self, fields: Fields) -> None:
        model, tokens = fields["model"], self._series["agent_tokens_total"]
        self._add("agent_model_calls_total", model, fields["outcome"])
        self._observe("agent_model_call_seconds", fields["duration_ms"], model)
        tokens(model, "input").inc(fields["input_tokens"])
        tokens(model, "output").inc(fields["output_tokens"])
        self._series["agent_cost_usd_total"](model).inc(fields["cost_nano_usd"] / 1e9)

    def _turned(self, fields: Fields, state: str) -> None:
        self._add("agent_breaker_transitions_total", fields["breaker"], state)

    def _alerted(self, fields: Fields) -> None:
        self._add("agent_budget_alerts_total", fields["scope"], fields["unit"])

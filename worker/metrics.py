"""Count what a worker process does, by listening to its own log events: a count and a line cannot disagree."""

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

from shared import logs
from shared.log_lines import Listener
from shared.metrics import WORKER, Bounded, build
from worker.metrics_server import Answer

Fields = Mapping[str, Any]

_COUNTED = {
    "task.released": "agent_released_total",
    "task.reaped": "agent_reaped_total",
    "task.fenced": "agent_fenced_total",
    "task.swept": "agent_swept_total",
}
_OUTAGES = ("claim.failed", "commit.delayed", "lease.not_renewed", "queue.not_watched", "spans.delayed")
_BREAKER = {"breaker.opened": "open", "breaker.half_opened": "half_open", "breaker.closed": "closed"}


class WorkerMetrics:
    """The metrics of one process, in a registry of its own.

    Args:
        in_flight: Answers how many tasks run now.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._by_name = {metric.name: build(metric, self.registry) for metric in WORKER}
        self._by_name["agent_tasks_in_flight"].set_function(in_flight)
        self._labels = {label: Bounded() for metric in WORKER for label in metric.labels}
        self._children: dict[tuple[object, ...], Any] = {}
        for scope, unit in product(("global", "user", "task"), ("tokens", "cost", "hour_cost")):
            self._of("agent_budget_alerts_total", scope, unit)  # an alert looks for the step from 0 to 1

    def listen(self) -> AbstractContextManager[None]:
        """Count while the block runs."""
        counts: dict[str, Listener] = {
            "task.started": self._started,
            "task.completed": self._ended,
            "task.failed": self._ended,
            "node.completed": self._node,
            "node.failed": self._node,
            "model.called": self._called,
            "model.retried": lambda fields: self._of("agent_retries_total", fields["model"]).inc(),
            "model.fell_back": lambda fields: self._of("agent_fallbacks_total", fields["model"]).inc(),
            "budget.refused": lambda fields: self._of("agent_budget_refusals_total", fields["scope"]).inc(),
            "budget.alerted": self._alerted,
            "alert.posted": lambda fields: self._of("agent_alert_posts_total", fields["outcome"]).inc(),
        }
        for event, name in _COUNTED.items():
            counts[event] = lambda _fields, name=name: self._of(name).inc()  # type: ignore[misc]
        for event in _OUTAGES:
            counts[event] = lambda _fields, event=event: self._of("agent_redis_errors_total", event).inc()  # type: ignore[misc]
        for event, state in _BREAKER.items():
            counts[event] = lambda fields, state=state: self._turned(fields, state)  # type: ignore[misc]
        return logs.listening(counts)

    def page(self) -> Answer:
        """Answer a scrape with all that has happened so far."""
        logs.flush()
        return 200, CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def _of(self, name: str, *values: object) -> Any:
        """Find the child of a metric by its labels' values, as fast as may be."""
        key = (name, *values)
        child = self._children.get(key)
        if child is None:
            metric = self._by_name[name]
            bounded = [self._labels[label](value) for label, value in zip(metric._labelnames, values, strict=True)]  # noqa: SLF001
            child = metric.labels(*bounded) if bounded else metric
            if "other" not in bounded:
                self._children[key] = child
        return child

    def _started(self, fields: Fields) -> None:
        if fields["attempt"] == 1:
            self._of("agent_queue_wait_seconds").observe(max(0, fields["queued_ms"]) / 1000)

    def _ended(self, fields: Fields) -> None:
        graph = fields.get("graph") or "unknown"
        self._of("agent_requests_total", graph, fields["state"]).inc()
        if "total_ms" in fields:
            self._of("agent_latency_seconds", graph).observe(max(0, fields["total_ms"]) / 1000)
        if fields.get("error"):
            self._of("agent_errors_total", fields["error"]).inc()

    def _node(self, fields: Fields) -> None:
        self._of("agent_node_seconds", fields.get("graph", "unknown"), fields["node"]).observe(
            fields["duration_ms"] / 1000
        )

    def _called(self, fields: Fields) -> None:
        model = fields["model"]
        self._of("agent_model_calls_total", model, fields["outcome"]).inc()
        self._of("agent_model_call_seconds", model).observe(fields["duration_ms"] / 1000)
        self._of("agent_tokens_total", model, "input").inc(fields["input_tokens"])
        self._of("agent_tokens_total", model, "output").inc(fields["output_tokens"])
        self._of("agent_cost_usd_total", model).inc(fields["cost_nano_usd"] / 1e9)

    def _turned(self, fields: Fields, state: str) -> None:
        self._of("agent_breaker_transitions_total", fields["breaker"], state).inc()

    def _alerted(self, fields: Fields) -> None:
        self._of("agent_budget_alerts_total", fields["scope"], fields["unit"]).inc()

"""The metrics by name: what each counts and by which labels. docs/observability.md explains them to people.

Workers expose `WORKER` on their own ports, one port per process, so that Prometheus adds them up and a process that
ends takes its gauges along. The gateway exposes `FLEET`, which it reads from Redis, and `GATEWAY`, which it counts.

Labels are bounded: graphs, models and queues are those of the configuration, and past `LONGEST` values of one label
further ones count as `other`. No label holds anything of a task or a user.
"""

from dataclasses import dataclass
from typing import Any, Literal

LONGEST = 100
"""Values of one label."""

_QUICK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; a counter's name ends in `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


WORKER = (
    Metric("agent_requests_total", "counter", "Tasks that ended", ("graph", "state")),
    Metric("agent_errors_total", "counter", "Tasks that did not succeed, by error.type", ("type",)),
    Metric("agent_latency_seconds", "histogram", "From submission to the end of a task", ("graph",), _LONG_S),
    Metric("agent_queue_wait_seconds", "histogram", "From submission to the first claim", (), _QUICK_S),
    Metric("agent_node_seconds", "histogram", "Run time of a node", ("graph", "node"), _LONG_S),
    Metric("agent_model_call_seconds", "histogram", "From admission to the end of a model call", ("model",), _LONG_S),
    Metric("agent_model_calls_total", "counter", "Model calls, by how they ended", ("model", "outcome")),
    Metric("agent_tokens_total", "counter", "Tokens, as the provider bills them", ("model", "direction")),
    Metric("agent_cost_usd_total", "counter", "What model calls cost, in US dollars", ("model",)),
    Metric("agent_retries_total", "counter", "Model calls that were tried again", ("model",)),
    Metric("agent_fallbacks_total", "counter", "Calls that went to another model than the first choice", ("model",)),
    Metric("agent_budget_refusals_total", "counter", "Model calls that a budget refused", ("scope",)),
    Metric("agent_budget_alerts_total", "counter", "Budget alerts", ("scope", "unit")),
    Metric("agent_breaker_transitions_total", "counter", "Changes of a circuit breaker's state", ("model", "state")),
    Metric("agent_tasks_in_flight", "gauge", "Tasks that this process runs now"),
    Metric("agent_released_total", "counter", "Tasks given back to the queue, not as a crash"),
    Metric("agent_answers_replayed_total", "counter", "Answers that a node got when it ran again", ("model",)),
    Metric("agent_once_calls_total", "counter", "Calls made once that were not made again", ("service", "outcome")),
    Metric("agent_paid_again_total", "counter", "Waiting tasks whose node may pay for its calls again"),
    Metric("agent_reaped_total", "counter", "Tasks taken from dead workers"),
    Metric("agent_fenced_total", "counter", "Results refused, because another worker owns the task by now"),
    Metric("agent_swept_total", "counter", "Tasks that the sweeper had to put back; must stay 0"),
    Metric("agent_signatures_refused_total", "counter", "Tasks whose signature did not hold", ("reason",)),
    Metric("agent_commands_refused_total", "counter", "Messages on pub/sub that no worker obeys"),
    Metric("agent_loop_blocked_total", "counter", "Nodes that kept the event loop for a second", ("graph", "node")),
    Metric("agent_log_lines_dropped_total", "counter", "Log lines dropped because the log was not read fast enough"),
    Metric("agent_redis_errors_total", "counter", "Operations that Redis did not answer", ("event",)),
    Metric("agent_alert_posts_total", "counter", "Budget alerts posted to the webhook", ("outcome",)),
)

FLEET = (
    Metric("agent_queue_depth", "gauge", "Runnable tasks", ("queue",)),
    Metric("agent_tasks_open", "gauge", "Tasks that have not ended, wherever they wait or run"),
    Metric("agent_tasks_delayed", "gauge", "Tasks that wait for a provider, a budget or their time"),
    Metric("agent_tasks_running", "gauge", "Tasks that a worker owns"),
    Metric("agent_oldest_task_age_seconds", "gauge", "Age of the oldest runnable task, 0 for none"),
    Metric("agent_workers", "gauge", "Workers whose lease holds"),
    Metric("agent_circuit_breaker_state", "gauge", "0 closed, 1 half open, 2 open", ("model",)),
    Metric("agent_token_usage_daily", "gauge", "Tokens used and held today by all workers"),
    Metric("agent_token_limit_daily", "gauge", "Their limit; absent without one"),
    Metric("agent_cost_usage_daily_usd", "gauge", "US dollars used and held today by all workers"),
    Metric("agent_cost_limit_daily_usd", "gauge", "Their limit; absent without one"),
    Metric("agent_redis_up", "gauge", "1 when Redis answered this scrape"),
    Metric("agent_redis_memory_bytes", "gauge", "Memory that Redis uses"),
    Metric("agent_redis_memory_limit_bytes", "gauge", "Redis' maxmemory; absent without one"),
)

REFUSED_KEYS = Metric("agent_refused_keys_total", "counter", "Requests to this gateway with a wrong API key")

GATEWAY = (REFUSED_KEYS,)


class Bounded:
    """Passes on a label's first `LONGEST` values; later ones become `other`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: object) -> str:
        """Answer the value to count under."""
        text = str(value)
        if text not in self._seen:
            if len(self._seen) >= LONGEST:
                return "other"
            self._seen.add(text)
        return text


def build(metric: Metric, registry: Any) -> Any:
    """Make prometheus_client's Counter, Gauge or Histogram of a metric and register it."""
    import prometheus_client  # noqa: PLC0415 - in the extras worker and api only

    kind = getattr(prometheus_client, metric.kind.capitalize())
    buckets = {"buckets": metric.buckets} if metric.buckets else {}
    return kind(metric.name, metric.about, metric.labels, registry=registry, **buckets)

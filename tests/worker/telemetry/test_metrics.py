"""The series of a worker's metrics: bounded, and counted while Prometheus reads them."""

import gc
from threading import Thread

from prometheus_client import CollectorRegistry, generate_latest

from langgraph_rq.shared.telemetry import logs
from langgraph_rq.shared.telemetry.metrics import LONGEST, Bounded, Metric
from langgraph_rq.worker.telemetry.metrics import Series, WorkerMetrics
from tests.waiting import until_sync

log = logs.get_logger("langgraph_rq.tests")


def test_labels_past_the_most_are_counted_as_other():
    registry = CollectorRegistry()
    metric = Metric("agent_model_calls_total", "counter", "Calls", ("model", "outcome"))
    calls = Series(metric, {label: Bounded() for label in metric.labels}, registry)
    for number in range(LONGEST + 5):
        calls(f"model {number}", "ok").inc()
        calls(f"model {number}", "ok").inc()
    assert registry.get_sample_value(metric.name, {"model": "other", "outcome": "ok"}) == 10
    assert registry.get_sample_value(metric.name, {"model": "model 0", "outcome": "ok"}) == 2
    assert generate_latest(registry).decode().count(f"\n{metric.name}{{") == LONGEST + 1


def test_metrics_without_labels_and_alerts_are_exposed_before_they_are_counted():
    page = WorkerMetrics(lambda: 0).page()[2].decode()
    assert "\nagent_reaped_total 0.0\n" in page
    assert 'agent_budget_alerts_total{scope="user",unit="cost"} 0.0' in page
    assert "_created" not in page


class CountedWhenCollected:
    """An object in a reference cycle, whose finalizer logs an event that is counted under a new label."""

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        log.info("model.retried", model="m")


def test_finalizer_that_logs_a_counted_event_during_a_scrape_waits_for_no_lock_of_it():
    metrics = WorkerMetrics(lambda: 0)

    def scrape() -> None:
        with metrics._series["agent_retries_total"]._metric._lock:  # as a scrape does for each metric
            CountedWhenCollected()
            gc.collect()

    with metrics.listen():
        scraping = Thread(target=scrape, daemon=True)
        scraping.start()
        scraping.join(20)
        assert not scraping.is_alive()
        until_sync(lambda: metrics.registry.get_sample_value("agent_retries_total", {"model": "m"}) == 1)


def test_log_lines_that_were_dropped_are_counted(monkeypatch):
    monkeypatch.setattr("langgraph_rq.shared.telemetry.log_output.MOST_QUEUED", 0)
    metrics = WorkerMetrics(lambda: 0)
    with metrics.listen():
        log.info("model.retried", model="m")
        log.info("model.retried", model="m")
    assert metrics.registry.get_sample_value("agent_log_lines_dropped_total") == 2
    assert metrics.registry.get_sample_value("agent_retries_total", {"model": "m"}) is None

"""Counters and histograms in plain numbers: Prometheus reads of them what it reads of prometheus_client's own."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from langgraph_rq.shared.telemetry.metrics import LONGEST, Bounded, Metric
from langgraph_rq.worker.telemetry.collector import MetricCollector

SECONDS = Metric("agent_node_seconds", "histogram", "Run time", ("graph", "node"), (0.1, 0.5, 2))
WAITS = Metric("agent_queue_wait_seconds", "histogram", "Wait", (), (0.1, 0.5))
CALLS = Metric("agent_model_calls_total", "counter", "Calls", ("model", "outcome"))
REAPED = Metric("agent_reaped_total", "counter", "Reaped")

labels = st.tuples(st.sampled_from(["a", 'b"\\\n', "ä"]), st.sampled_from(["x", "y"]))
seconds = st.sampled_from([0.0, 0.1, 0.25, 0.5, 2.0, 7.0])


def page(*counts: MetricCollector) -> str:
    registry = CollectorRegistry()
    for one in counts:
        registry.register(one)
    return generate_latest(registry).decode()


def make(metric: Metric) -> MetricCollector:
    return MetricCollector(metric, {label: Bounded() for label in metric.labels})


@given(st.lists(st.tuples(labels, seconds)), st.lists(st.tuples(labels, st.integers(0, 5))))
def test_page_is_the_one_that_prometheus_client_would_write(observed, counted):
    disable_created_metrics()
    theirs = CollectorRegistry()
    histogram = Histogram(SECONDS.name, SECONDS.about, SECONDS.labels, registry=theirs, buckets=SECONDS.buckets)
    waits = Histogram(WAITS.name, WAITS.about, registry=theirs, buckets=WAITS.buckets)
    counter = Counter(CALLS.name, CALLS.about, CALLS.labels, registry=theirs)
    reaped = Counter(REAPED.name, REAPED.about, registry=theirs)
    ours = [make(metric) for metric in (SECONDS, WAITS, CALLS, REAPED)]
    for values, amount in observed:
        histogram.labels(*values).observe(amount)
        waits.observe(amount)
        ours[0].observe(amount, values)
        ours[1].observe(amount)
    for values, n in counted:
        counter.labels(*values).inc(n)
        reaped.inc(n)
        ours[2].add(values, n)
        ours[3].add(n=n)
    assert page(*ours) == generate_latest(theirs).decode()


def test_labels_past_the_most_are_counted_as_other():
    calls = make(CALLS)
    for number in range(LONGEST + 5):
        calls.add((f"model {number}", "ok"))
        calls.add((f"model {number}", "ok"))
    assert 'agent_model_calls_total{model="other",outcome="ok"} 10.0' in page(calls)
    assert page(calls).count("\nagent_model_calls_total") == LONGEST + 1

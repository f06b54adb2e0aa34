"""Count in plain numbers what a process does many times a task, for Prometheus to read.

prometheus_client's own counters and histograms take 1.5 microseconds an observation, sixteen of them for a small task;
these 0.4. So it is given what it calls a custom collector, which is asked at each scrape.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from threading import RLock

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from langgraph_rq.shared.telemetry.metrics import Bounded, Metric


class Counts(Collector):
    """The values of one counter or histogram; safe to share between threads.

    Args:
        metric: Which.
        bounds: Of each of its labels.
    """

    def __init__(self, metric: Metric, bounds: Mapping[str, Bounded]) -> None:
        self._metric = metric
        self._bounds = [bounds[label] for label in metric.labels]
        self._lock = RLock()  # a finalizer that runs while it is held may log what is counted here
        self._cells: dict[tuple[object, ...], list[float]] = {}
        """Labels -> the value; of a histogram how often each bucket was hit, +Inf the last, and their sum."""
        if not metric.labels:
            self._cell(())  # 0 is worth knowing

    def add(self, labels: tuple[object, ...] = (), n: float = 1) -> None:
        """Count `n` more."""
        with self._lock:
            self._cell(labels)[0] += n

    def observe(self, value: float, labels: tuple[object, ...] = ()) -> None:
        """Put a value into its bucket, the first that is not smaller."""
        with self._lock:
            cell = self._cell(labels)
            cell[bisect_left(self._metric.buckets, value)] += 1
            cell[-1] += value

    def collect(self) -> Iterable[Family]:
        """Answer a scrape."""
        name, about, labels = self._metric.name, self._metric.about, self._metric.labels
        with self._lock:
            cells = [([str(value) for value in values], list(cell)) for values, cell in self._cells.copy().items()]
        if self._metric.kind == "counter":
            counter = CounterMetricFamily(name, about, labels=labels)
            for values, (count,) in cells:
                counter.add_metric(values, count)
            return [counter]
        histogram = HistogramMetricFamily(name, about, labels=labels)
        ends = [floatToGoString(end) for end in (*self._metric.buckets, "inf")]  # type: ignore[no-untyped-call]
        for values, (*hits, total) in cells:
            histogram.add_metric(values, list(zip(ends, accumulate(hits), strict=True)), total)
        return [histogram]

    def _cell(self, labels: tuple[object, ...]) -> list[float]:
        cell = self._cells.get(labels)
        if cell is None:
            bounded = tuple(bound(value) for bound, value in zip(self._bounds, labels, strict=True))
            size = 1 if self._metric.kind == "counter" else len(self._metric.buckets) + 2
            cell = self._cells.setdefault(bounded, [0.0] * size)
        return cell

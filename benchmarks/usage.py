"""CPU time and peak memory of a system's processes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

_SAMPLE_S = 0.25


def family(processes: Sequence[psutil.Process]) -> Iterator[psutil.Process]:
    """Yield the processes and all their descendants."""
    for process in processes:
        yield process
        with suppress(psutil.NoSuchProcess):
            yield from process.children(recursive=True)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Add up user and system time of processes and descendants, also (not on macOS) of those that have ended."""
    total = 0.0
    for process in family(processes):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, and the same of children that were waited for
    return total


class PeakRss:
    """Sample the resident memory of processes and descendants while the block runs; `bytes` is the peak."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self.bytes = 0
        self._processes = processes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stopping.wait(_SAMPLE_S):
            rss = 0
            for process in family(self._processes):
                with suppress(psutil.NoSuchProcess):
                    rss += process.memory_info().rss
            self.bytes = max(self.bytes, rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

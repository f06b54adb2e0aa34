"""The servers and processes of a run: private Redis servers, the offline model server, and programs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
from redis import Redis
from rich.progress import Progress

from benchmarks.usage import family
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[1]
LANGGRAPH_JSON = ROOT / "benchmarks/systems/graphs/langgraph.json"

_FOREIGN = ("LGRQ_", "LANGSMITH_", "LANGCHAIN_", "OPENAI_", "OTEL_", "REDIS_URL")
"""Prefixes of variables that the caller may have set and that would change a measurement or call out."""
_END_S = 15.0
_START_S = 120.0
_POLL_S = 0.01
_LOG_TAIL = 2_000

T = TypeVar("T")


class BenchmarkError(RuntimeError):
    """A measured system failed; the message names it and quotes the end of its log."""


class Rig:
    """One run of the benchmarks.

    Args:
        folder: Logs and working directory of the processes; without an .env of the caller's.
        model_url: The offline model server.
        quick: Whether to run fewer tasks and rounds.
        full: Whether to queue as many tasks as the goal names.
        progress: Shows where the run is.
    """

    def __init__(self, folder: Path, model_url: str, progress: Progress, *, quick: bool, full: bool) -> None:
        self.quick = quick
        self.full = full
        self._folder = folder
        self._model_url = model_url
        self._progress = progress

    def count(self, full: T, quick: T) -> T:
        """Return `quick` in a quick run, else `full`."""
        return quick if self.quick else full

    @contextmanager
    def redis(self) -> Iterator[EmbeddedRedis]:
        """Run an empty Redis over TCP, as users have it, append-only."""
        with EmbeddedRedis(tcp=True) as server:
            yield server

    @contextmanager
    def process(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
        python: Path | None = None,
    ) -> Iterator[psutil.Popen]:
        """Run `python arguments` on this checkout with its output in a file, or in a pipe if it `talks`."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        own |= {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": self._model_url, "OPENAI_API_KEY": "offline"}
        with (self._folder / f"{name}.log").open("w") as log:
            process = psutil.Popen(
                [str(python or sys.executable), *arguments],
                env={**own, **(environment or {})},
                cwd=self._folder,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                text=True,
            )
        try:
            yield process
        finally:
            _end(process)

    def wait_until(
        self, name: str, process: psutil.Popen, is_ready: Callable[[], bool], every_s: float = _POLL_S
    ) -> None:
        """Poll, lightly, until `is_ready`; raises BenchmarkError if the process ends first or takes too long."""
        give_up_at = time.monotonic() + _START_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > give_up_at:
                state = "ended" if process.poll() is not None else "is not ready"
                tail = (self._folder / f"{name}.log").read_text(errors="replace")[-_LOG_TAIL:]
                raise BenchmarkError(f"{name} {state}; its log ends:\n{tail}")
            time.sleep(every_s)

    def track(self, what: str, parts: Iterable[T], total: int) -> Iterator[T]:
        """Show how many of `parts` are done."""
        bar = self._progress.add_task(f"  {what}", total=total)
        for part in parts:
            yield part
            self._progress.advance(bar)
        self._progress.remove_task(bar)


@contextmanager
def client(server: EmbeddedRedis) -> Iterator[Redis]:
    """Open a synchronous client that decodes."""
    with Redis.from_url(server.url, decode_responses=True) as redis:
        yield redis


def _end(process: psutil.Popen) -> None:
    if process.stdin:
        process.stdin.close()
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    try:
        process.wait(_END_S)
    except psutil.TimeoutExpired:
        for one in family([process]):
            one.kill()
        process.wait(_END_S)

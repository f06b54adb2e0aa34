"""An installation: Redis, a model API and worker processes, shared by all tests that only submit tasks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.waiting import until_sync

ROOT = Path(__file__).parents[1]
SMALL_PROJECT = ROOT / "tests/projects/small/langgraph.json"
SUPPORT_DESK = ROOT / "examples/support_desk/langgraph.json"
START_TIMEOUT_S = 60.0
"""Importing the libraries takes seconds of CPU time, longer on a busy machine."""

_FOREIGN = ("LGRQ_", "OPENAI_", "REDIS_URL", "OTEL_")


@dataclass(frozen=True)
class WorkerProcess:
    """`langgraph-worker` as a process, with its log."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [line for line in self.said().splitlines() if line.startswith("{") and line.endswith("}")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def wait_until_ready(self, processes: int = 1) -> None:
        def is_ready() -> bool:
            return self.process.poll() is not None or len(self.events("worker.started")) == processes

        try:
            until_sync(is_ready, START_TIMEOUT_S)
        finally:
            assert len(self.events("worker.started")) == processes, self.said()

    def end(self, signal_number: int = SIGTERM, timeout_s: float = START_TIMEOUT_S) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(timeout_s)


_WORKER = (sys.executable, "-P", "-m", "langgraph_rq.worker")


@contextmanager
def start_worker(
    folder: Path,
    environment: Mapping[str, str],
    *arguments: str,
    command: Sequence[str | Path] = _WORKER,
    cwd: Path | None = None,
) -> Iterator[WorkerProcess]:
    """Run `langgraph-worker ARGUMENTS` until the end of the block, in `cwd` or `folder`, with its log in `folder`."""
    log = folder / "worker.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=cwd or folder,
            env=clean_environment(environment),
            stdout=said,
            stderr=said,
        )
    try:
        yield WorkerProcess(process, log)
    finally:
        process.kill()
        process.wait()


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process without any of its settings, plus these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)} | dict(environment)


@dataclass(frozen=True)
class Installation:
    """A running installation; `environment` configures its producers and workers."""

    environment: Mapping[str, str]
    model: OfflineLLM
    worker: WorkerProcess

    @property
    def redis_url(self) -> str:
        return self.environment["REDIS_URL"]


@contextmanager
def _install(folder: Path, config: Path) -> Iterator[Installation]:
    with EmbeddedRedis(tcp=True) as redis, OfflineLLM() as model:
        environment = {
            "REDIS_URL": redis.url,
            "OPENAI_BASE_URL": model.url,
            "OPENAI_API_KEY": "offline",
            "LGRQ_BUDGET_DAILY_TOKENS": "none",
        }
        with start_worker(folder, environment, "--config", str(config)) as worker:
            worker.wait_until_ready()
            yield Installation(environment, model, worker)
            assert worker.process.poll() is None, worker.said()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Serve the assistant and the graphs of tests/projects/small; tasks of earlier tests are kept."""
    with _install(tmp_path_factory.mktemp("small"), SMALL_PROJECT) as one:
        yield one


@pytest.fixture
def disturbed_model(installation: Installation) -> Iterator[OfflineLLM]:
    """The installation's model API, for a test that makes it slow or fail; it is reset after the test."""
    yield installation.model
    installation.model.admin.clear()
    installation.model.admin.set_latency(0.0)


@pytest.fixture(scope="session")
def support_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Serve the graph of examples/support_desk."""
    with _install(tmp_path_factory.mktemp("desk"), SUPPORT_DESK) as one:
        yield one

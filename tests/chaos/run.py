"""One run of a scenario: its workers, its producers and the proof that its fault took effect."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from signal import SIGKILL
from typing import Any

from redis.exceptions import RedisError

from langgraph_rq import Client
from langgraph_rq.shared.errors import QueueFullError, RedisUnavailableError
from langgraph_rq.shared.queue.keys import OPEN
from tests.chaos.checking.checker import Rules, Verdict, Violation, check
from tests.chaos.checking.history import Event, pid_of, read_events, record
from tests.chaos.testbed.graphs import NODES
from tests.chaos.testbed.stage import Stage, WorkerProcess, wait

_POLL_S = 0.1
_SUBMIT_BATCH = 5
_DEADLINE_S = 3600.0
CHAIN = Rules(steps=[NODES])
UNTOUCHED = Rules(steps=[NODES], crashes=False, repaid_per_crash=0)
"""No worker died: no task may move and no call may be paid again."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is.

    Args:
        share: Of the tasks that the table asks for.
        lease_s: Of the workers.
        node_s: How long a node's model call takes.
        patience_s: How long the tasks may take to end after the last fault.
        is_full: Whether faults are as long as the table says.
    """

    share: float = 1.0
    lease_s: float = 8.0
    node_s: float = 0.5
    patience_s: float = 300.0
    is_full: bool = True


FULL = Size()
SMALL = Size(share=0.03, lease_s=2.0, node_s=0.05, patience_s=90.0, is_full=False)


@dataclass(slots=True)
class Run:
    """A scenario on a stage; `mutant` names the rule that is disabled in its workers."""

    stage: Stage
    size: Size
    mutant: str = ""
    proofs: dict[str, float] = field(default_factory=dict)
    """Counts that prove that the fault took effect: each must be above 0."""
    figures: dict[str, float] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(4))
    tell: Callable[[str], None] = lambda _what: None

    def count(self, full: int, at_least: int = 20) -> int:
        """Scale a number of the table."""
        return max(at_least, round(full * self.size.share))

    def seconds(self, full: float, small: float) -> float:
        """Choose how long a fault lasts."""
        return full if self.size.is_full else small

    def seconds_each(self, full: Sequence[float], small: Sequence[float]) -> Sequence[float]:
        """Choose how long each of several faults lasts."""
        return full if self.size.is_full else small

    def environment(self, **more: str) -> Mapping[str, str]:
        """The settings of this run's workers."""
        return {"LGRQ_LEASE_S": str(self.size.lease_s), **more}

    def start(
        self,
        n: int,
        concurrency: int,
        *arguments: str,
        redis_url: str | None = None,
        mutant: str | None = None,
        **environment: str,
    ) -> list[WorkerProcess]:
        """Start workers and wait until they have joined."""
        workers = [
            self.start_soon(concurrency, *arguments, redis_url=redis_url, mutant=mutant, **environment)
            for _ in range(n)
        ]
        self.stage.wait_until_ready(workers)
        return workers

    def start_soon(
        self,
        concurrency: int,
        *arguments: str,
        redis_url: str | None = None,
        mutant: str | None = None,
        **environment: str,
    ) -> WorkerProcess:
        """Start a worker without waiting."""
        return self.stage.start_worker(
            self.environment(**environment),
            concurrency=concurrency,
            mutant=self.mutant if mutant is None else mutant,
            redis_url=redis_url,
            arguments=arguments,
        )

    def reaper(self) -> WorkerProcess:
        """Start a worker that serves no queue of this run: it only reaps workers that die."""
        return self.start(1, 1, "--queues", "unused")[0]

    def submit(self, ids: Sequence[str], redis_url: str | None = None, pause_s: float = 0.0, **fields: Any) -> None:
        """Submit a task for each id, a few at a time, and record the outcome of each."""
        with Client(redis_url or self.stage.redis.url) as client:
            self.submitted += ids
            for start in range(0, len(ids), _SUBMIT_BATCH):
                submit_batch(client, ids[start : start + _SUBMIT_BATCH], **fields)
                time.sleep(pause_s)

    @contextmanager
    def submitting(self, ids: Sequence[str], **options: Any) -> Iterator[None]:
        """Submit in the background; the block ends when all are submitted."""
        thread = threading.Thread(target=self.submit, args=(ids,), kwargs=options)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def has_ended(self) -> bool:
        """Return whether no task is open; False while Redis is down."""
        with suppress(RedisError), self.stage.client() as client:
            open_now = client.zcard(OPEN)
            self.tell(f"{len(self.submitted):,} submitted, {open_now:,} open")
            return open_now == 0
        return False

    def until_ended(self, every_s: float, keep: Callable[[], object] = lambda: None) -> Iterator[int]:
        """Yield every so often until no task is open; `keep` is called all the time."""
        began = time.monotonic()
        turn, next_at = 0, began + every_s
        while not self.has_ended() and time.monotonic() - began < self.size.patience_s:
            keep()
            if time.monotonic() >= next_at:
                yield turn
                turn, next_at = turn + 1, time.monotonic() + every_s
            time.sleep(_POLL_S)

    def wait_until_ended(self, keep: Callable[[], object] = lambda: None) -> None:
        """Wait until no task is open, as long as the size allows; the checker names those that are."""
        for _ in self.until_ended(self.size.patience_s, keep):
            pass

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition, as long as the size allows."""
        wait(condition, self.size.patience_s, "the condition holds")

    def open_now(self) -> int:
        """Count the tasks that are open."""
        with self.stage.client() as client:
            return int(client.zcard(OPEN))

    def is_busy(self, pid: int) -> bool:
        """Return whether this worker has begun to make model calls."""
        return any(pid_of(call["prompt"].split()[3]) == pid for call in self.stage.model.admin.calls())

    def events(self, kind: str) -> list[Event]:
        """Read what has happened of this kind so far."""
        return [event for event in read_events(self.stage.run_folder) if event.kind == kind]

    def kill(self, worker: WorkerProcess) -> None:
        """Kill with SIGKILL, and count it."""
        self.count_proof("kills")
        worker.strike(SIGKILL, "kill -9")

    def count_proof(self, name: str, number: float = 1) -> None:
        """Count that a fault took effect."""
        self.proofs[name] = self.proofs.get(name, 0) + number

    def judge(self, rules: Rules = CHAIN) -> Verdict:
        """Check the history; a fault without effect counts as a violation too."""
        history = self.stage.read_history(self.submitted)
        fenced = sum(event.kind == "fenced" for event in history.events)
        self.proofs.update({name: fenced for name in self.proofs if name == "fenced"})
        verdict = check(history, rules)
        idle = [Violation("no effect", "", f"{name} is 0") for name, number in self.proofs.items() if not number]
        figures = {**verdict.figures, **self.figures, **self.proofs}
        return Verdict((*verdict.violations, *idle), figures)


def submit_batch(client: Client, ids: Sequence[str], **fields: Any) -> None:
    """Submit a few tasks and record the outcome of each."""
    documents = [client.parse({"task_id": id_, "input": {}, "deadline_s": _DEADLINE_S, **fields}) for id_ in ids]
    for id_ in ids:
        record("invoked", id_)
    left = list(ids)
    try:
        for receipt in client.submit_each(documents):
            record("ok", receipt.task_id)
            left.remove(receipt.task_id)
    except RedisUnavailableError:
        for id_ in left:
            record("unknown", id_)
    except QueueFullError:
        for id_ in left:
            record("refused", id_)


def ids(prefix: str, number: int) -> list[str]:
    """Return `number` task ids."""
    return [f"{prefix}-{i}" for i in range(number)]


class Replacer:
    """Start another worker for each that has died, as a supervisor does; `start` starts one without waiting."""

    def __init__(self, workers: Iterable[WorkerProcess], start: Callable[[], WorkerProcess]) -> None:
        self.workers = list(workers)
        self.replaced = 0
        self._start = start

    def __call__(self) -> None:
        for i, worker in enumerate(self.workers):
            if not worker.is_alive:
                record("struck", pid=worker.pid, detail="found dead")
                self.workers[i] = self._start()
                self.replaced += 1

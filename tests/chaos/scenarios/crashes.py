"""C1, C2, C7, C8, C9, C27, C31: worker processes are killed, stopped, drained and blocked, and kill themselves."""

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from signal import SIGCONT, SIGSTOP, SIGTERM

import psutil

from langgraph_rq.shared.queue.keys import result_key, task_hash
from tests.chaos.checking.checker import Verdict, Violation
from tests.chaos.run import CHAIN, Replacer, Run, ids
from tests.chaos.testbed.fork_server import STUCK_S
from tests.chaos.testbed.graphs import BLOCK_S, FLAKY, LAST_S, NODES, SINGLE
from tests.chaos.testbed.stage import WorkerProcess, wait
from tests.documented_keys import STAYS, matches

LIFE = (
    "after-queue_claim",  # before it, it is not known which tasks the process will own
    *(f"{when}-{node}" for node in ("one", "three", "four") for when in ("before", "after")),
    *(f"{when}-{script}" for script in ("guards_admit", "guards_settle") for when in ("before", "after")),
    "before-saver_save",
    "after-saver_save",
    "before-queue_finish",
    "after-queue_finish",
)
"""The points of a task's life."""
THREAD = tuple(f"{when}-saver_begin" for when in ("before", "after"))
"""Those of a task of a thread besides; the first write to a thread of its own begins it."""
LEASE = tuple(f"{when}-queue_{verb}" for verb in ("renew", "reap", "sweep") for when in ("before", "after"))
_FLAKY = {"graph": "flaky", "max_attempts": 3}
RELEASE = tuple(f"{when}-queue_release" for when in ("before", "after"))
FEW = {"after-queue_claim", "after-three", "after-guards_settle", "before-saver_save", "before-queue_finish"}
FEW |= {"after-saver_begin", "after-queue_finish", "after-queue_renew", "after-queue_release"}
"""The points of a small run."""
FREE = {"after-queue_finish", "before-queue_finish"}
"""Points behind the last checkpoint: from there on nothing is paid again."""

_BLOCKED_DEADLINE_S = 60.0
"""Deadline of the tasks beside one that blocks: without its mark they waited for 74 s."""


def kill_random_workers(run: Run) -> Verdict:
    """C1: kill -9 of a random worker every 5 s, replaced at once."""
    replacer = _fleet(run, 4, 50)
    run.submit(ids("c1", run.count(2_000, 120)), graph="chain")
    for _ in run.until_ended(run.seconds(5.0, 1.5), replacer):
        if run.size.is_full or run.proofs.get("kills", 0) < 2:
            run.kill(run.dice.choice(replacer.workers))
    return run.judge()


def stop_workers(run: Run) -> Verdict:
    """C2: SIGSTOP for two leases, then SIGCONT; one worker is stopped just before it writes a result."""
    run.reaper()  # all three may stop, two of them by themselves: then another worker must reap their tasks
    workers = run.start(3, 50)
    stopping = ids("stop-before-queue_finish", 2)
    run.submit([*stopping, *ids("c2", run.count(500, 40))], graph="chain")
    wait(lambda: any(_is_stopped(worker) for worker in workers), run.size.patience_s, "a worker stops at a point")
    victim = next((worker for worker in workers if not _is_stopped(worker)), workers[0])
    victim.strike(SIGSTOP, "SIGSTOP")
    run.count_proof("stops")
    wait(lambda: _is_stopped(victim), run.size.patience_s, "the victim stops")
    stopped = {worker.pid for worker in workers if _is_stopped(worker)}
    time.sleep(2 * run.size.lease_s)
    for worker in workers:
        worker.send(SIGCONT)
    wake = _Waker(workers, 2 * run.size.lease_s)
    run.wait_until_ended(wake)
    # The third may have ended everything by now: the stopped workers need time to send their writes and to be refused.
    run.wait_until(lambda: wake() or _are_fenced(run, stopped))
    run.proofs["fenced"] = 0
    run.figures["exits"] = sum(not worker.is_alive for worker in workers)
    return run.judge()


def _is_stopped(worker: WorkerProcess) -> bool:
    try:
        return psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


def _are_fenced(run: Run, pids: set[int]) -> bool:
    """Return whether Redis refused a write of each process, and a late result of one."""
    fenced = run.events("fenced")
    return pids <= {event.pid for event in fenced} and any(event.detail == "finish" for event in fenced)


class _Waker:
    """Wake up, when called, each worker that has been stopped for `after_s`."""

    def __init__(self, workers: Iterable[WorkerProcess], after_s: float) -> None:
        self._workers = workers
        self._after_s = after_s
        self._stopped_since: dict[int, float] = {}

    def __call__(self) -> None:
        for worker in self._workers:
            if not _is_stopped(worker):
                self._stopped_since.pop(worker.pid, None)
            elif time.monotonic() - self._stopped_since.setdefault(worker.pid, time.monotonic()) > self._after_s:
                worker.send(SIGCONT)


def kill_at_each_point(run: Run) -> Verdict:
    """C7: a process is killed at each point of its task's life, one task at a time."""
    run.reaper()
    replacer = _fleet(run, 6, 1)
    # A thread each: two turns of one thread have the steps of both.
    threads = [((point,), {"graph": "chain", "thread_id": f"c7-{point}"}) for point in THREAD]
    groups = ((LIFE, {"graph": "chain"}), *threads, (LEASE, {"graph": "slow"}), (RELEASE, _FLAKY))
    for points, fields in groups:
        chosen = [point for point in points if run.size.is_full or point in FEW]
        run.submit([f"die-{point}-1" for point in chosen], **fields)
    run.wait_until_ended(replacer)
    run.proofs["points"] = len({event.task for event in run.events("struck")} & set(run.submitted))
    verdict = run.judge(replace(CHAIN, steps=[NODES, FLAKY]))
    missed = set(run.submitted) - {event.task for event in run.events("struck")}
    moved = {call.task for call in run.stage.calls() if call.epoch > 1}
    free = {f"die-{point}-1" for point in FREE}
    return with_violations(
        verdict,
        [Violation("no effect", task, "no process died there") for task in sorted(missed)]
        + [Violation("repaid", task, "after its last checkpoint") for task in sorted(moved & free)]
        + [Violation("for ever", "", f"{key} has no TTL") for key in _kept_for_ever(run)],
    )


def _kept_for_ever(run: Run) -> list[str]:
    """Return the keys that never expire, and are not among those that stay."""
    with run.stage.client() as client:
        keys = sorted(client.scan_iter(count=1000))
        return [key for key in keys if client.ttl(key) == -1 and not matches(key, STAYS)]


def drain_workers(run: Run) -> Verdict:
    """C8: every worker in turn is drained with SIGTERM and replaced."""
    workers = run.start(3, 50)
    with run.submitting(ids("c8", run.count(1_000, 60)), pause_s=0.05, graph="chain"):
        for i, worker in enumerate(workers):
            workers[i] = run.start(1, 50)[0]
            worker.send(SIGTERM)
            wait(lambda worker=worker: not worker.is_alive, 60, "a worker has drained")
            run.count_proof("drained", len(worker.events("worker.stopped")))
    run.wait_until_ended()
    return run.judge(replace(CHAIN, crashes=False, repaid_per_crash=0))


def poison(run: Run) -> Verdict:
    """C9: one task in a hundred ends its process."""
    replacer = _fleet(run, 3, 50 if run.size.is_full else 4)
    number = run.count(1_000, 24)
    killers = ids("killer", max(1, number // 100))
    run.submit(ids("c9", number // 2), graph="chain")
    run.submit(killers, graph="killer")
    run.submit(ids("c9-more", number - number // 2), graph="chain")
    run.wait_until_ended(replacer)
    run.proofs["kills"] = replacer.replaced
    return run.judge(replace(CHAIN, poisoned=set(killers)))


def kill_beside_innocents(run: Run) -> Verdict:
    """C27: a task ends its process beside sixty others of 8 s, on one worker that is restarted."""
    lasts_s, deadline_s = run.seconds(8.0, 3.0), run.seconds(60.0, 40.0)
    replacer = _fleet(run, 1, 100, **{LAST_S: str(lasts_s)})
    innocents = ids("c27", 60)
    run.submit(innocents[:30], graph="lasting", deadline_s=deadline_s)
    run.submit(["killer"], graph="killer", deadline_s=deadline_s)
    run.submit(innocents[30:], graph="lasting", deadline_s=deadline_s)
    run.wait_until_ended(replacer)
    run.proofs["kills"] = replacer.replaced
    return run.judge(replace(CHAIN, steps=[SINGLE], poisoned={"killer"}))


def block_a_loop(run: Run) -> Verdict:
    """C31: a task's async node blocks the event loop for longer than a worker may be stuck."""
    stuck_s, block_s = run.seconds(30.0, 3.0), run.seconds(40.0, 10.0)
    run.start(2, 50, **{STUCK_S: str(stuck_s), BLOCK_S: str(block_s)})
    number, blocker = run.count(200, 40), "blocker"
    run.submit(ids("c31", number // 2), graph="chain", deadline_s=_BLOCKED_DEADLINE_S)
    run.submit([blocker], graph="blocker")
    run.submit(ids("c31-more", number - number // 2), graph="chain", deadline_s=_BLOCKED_DEADLINE_S)
    run.wait_until_ended()
    run.proofs["blocked"] = len(run.events("struck"))
    with run.stage.client() as client:
        error = json.loads(client.get(result_key(blocker)) or "{}").get("error") or {}
        crashes = int(client.hget(task_hash(blocker), "crashes") or 0)
    broken = []
    if not re.fullmatch(r"blocked the event loop in \S*graphs\.py:\d+", error.get("message", "")):
        broken.append(Violation("unexpected", blocker, f"its error names no line: {error}"))
    if crashes > 1:
        broken.append(Violation("false reap", blocker, f"it cost {crashes} workers their lease"))
    return with_violations(run.judge(replace(CHAIN, failing={blocker: "graph_error"})), broken)


def with_violations(verdict: Verdict, more: Iterable[Violation]) -> Verdict:
    """Add violations that only the scenario can detect."""
    return Verdict((*verdict.violations, *more), verdict.figures)


def lost_turns(run: Run, steps: Mapping[str, tuple[str, ...]]) -> list[Violation]:
    """Find tasks whose thread does not hold what all turns up to theirs have added: task -> the steps expected."""
    final = run.stage.read_history(run.submitted).final or {}
    return [
        Violation("garbled", task, f"expected {len(expected)} steps, got: {final[task].steps}")
        for task, expected in steps.items()
        if task in final and final[task].steps != expected
    ]


def _fleet(run: Run, n: int, concurrency: int, **environment: str) -> Replacer:
    """Start workers that are replaced when they die."""

    def start() -> WorkerProcess:
        return run.start_soon(concurrency, **environment)

    return Replacer(run.start(n, concurrency, **environment), start)

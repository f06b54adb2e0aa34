"""Instrument a worker process: record every script that it runs, before and after.

Calls are written to the history. Task ids inject faults: `die-<point>-<n>` kills the process that owns the task when
its first attempt reaches the point, `stop-<point>-<n>` stops it. A point is `before-<script>` (not sent yet) or
`after-<script>` (Redis has answered, the worker has not read the reply).
Nodes have the points `before-<node>` and `after-<node>`.
"""

import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from langgraph_rq.shared.budget.token_budget import Refused
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Claim, Finished, Lease, Ownership, Reaped, Swept
from langgraph_rq.worker.guards.admission import Decision, Settled
from tests.chaos.checking.history import record

GATE = "CHAOS_GATE"
"""Environment variable: the second node of `held` waits until there is this file; without it, not at all."""

_STRUCK = re.compile(r"(die|stop)-(.+)-\d+$")
_SIGNALS = {"die": signal.SIGKILL, "stop": signal.SIGSTOP}

Source = Mapping[str, tuple[str, str]]
"""Script -> a piece of its source and what stands there instead."""

_in_hand: dict[str, int] = {}
"""Tasks that this process owns -> their attempt."""


def reach(point: str) -> None:
    """Kill or stop this process if the id of a task that it owns names this point."""
    for task, epoch in tuple(_in_hand.items()):
        match = _STRUCK.match(task)
        if match and match[2] == point and epoch == 1:
            del _in_hand[task]
            record("struck", task, epoch, detail=f"{match[1]} {point}")
            os.kill(os.getpid(), _SIGNALS[match[1]])


def install(mutations: Source) -> None:
    """Record all scripts of this process, changed by `mutations`; only the first call has an effect."""
    if scripts.run.__module__ == __name__:
        return
    run, run_sync = scripts.run, scripts.run_sync

    async def run_seen(redis: Any, call: scripts.Call[Any]) -> Any:
        asked_at = _before([call])
        reply = await run(redis, _mutated(call, mutations))
        _after([call], [reply], asked_at)
        return reply

    def several_seen(run_several: Callable[..., Awaitable[list[Any]]]) -> Callable[..., Awaitable[list[Any]]]:
        async def run_seen(redis: Any, calls: Sequence[scripts.Call[Any]], *replicas: Any) -> list[Any]:
            asked_at = _before(calls)
            replies = await run_several(redis, [_mutated(call, mutations) for call in calls], *replicas)
            _after(calls, replies, asked_at)
            return replies

        return run_seen

    def run_sync_seen(redis: Any, call: scripts.Call[Any]) -> Any:
        asked_at = _before([call])
        reply = run_sync(redis, _mutated(call, mutations))
        _after([call], [reply], asked_at)
        return reply

    scripts.run, scripts.run_sync = run_seen, run_sync_seen
    scripts.run_many, scripts.run_each = several_seen(scripts.run_many), several_seen(scripts.run_each)
    if os.environ.get("LGRQ_STATE") == "postgres":
        _see_statements()


def _see_statements() -> None:
    """Record what is written to Postgres, and what it refuses."""
    from langgraph_rq.worker.state.postgres import statements
    from langgraph_rq.worker.state.postgres.connections import Postgres

    rows = Postgres.rows

    async def rows_seen(postgres: Postgres, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        found = await rows(postgres, statement, parameters)
        if statement in {statements.PUT, statements.PUT_WRITES}:
            _saved(is_checkpoint=statement == statements.PUT, is_refused=not found)
        return found

    Postgres.rows = rows_seen  # type: ignore[method-assign]


def _mutated(call: scripts.Call[Any], mutations: Source) -> scripts.Call[Any]:
    if call.script.name not in mutations:
        return call
    original, replacement = mutations[call.script.name]
    if original not in call.script.source:
        raise AssertionError(f"{call.script.name} has no {original!r} to take out")
    script = scripts.make_script(call.script.name, call.script.source.replace(original, replacement))
    return scripts.Call(script, call.keys, call.args, call.decode)


def _point(call: scripts.Call[Any]) -> str:
    """Name a script by its folder and file, in characters that task ids may have: `queue_claim`."""
    return "_".join([part for part in call.script.name.split("/") if part != "scripts"][-2:])


def _before(calls: Iterable[scripts.Call[Any]]) -> float:
    for call in calls:
        reach(f"before-{_point(call)}")
    return time.monotonic()


def _after(calls: Sequence[scripts.Call[Any]], replies: Sequence[Any], asked_at: float) -> None:
    for call, reply in zip(calls, replies, strict=True):
        recorder = _RECORDERS.get(call.script.name)
        if recorder:
            recorder(call, reply, asked_at)
        reach(f"after-{_point(call)}")


def _claimed(call: scripts.Call[Any], reply: Any, _asked_at: float) -> None:
    if isinstance(reply, Claim):
        for task in reply.tasks:
            _in_hand[task.id] = task.epoch
            record("claimed", task.id, task.epoch)


def _finished(call: scripts.Call[Any], reply: Any, _asked_at: float) -> None:
    task, epoch = str(call.args[0]), int(call.args[1])
    if reply is Finished.WRITTEN:
        record("wrote", task, epoch, detail=str(call.args[3]))
    elif reply is Finished.FENCED:
        record("fenced", task, epoch, detail="finish")


def _released(call: scripts.Call[Any], reply: Any, _asked_at: float) -> None:
    record("released" if reply is True else "fenced", str(call.args[0]), int(call.args[1]), detail="release")


def _renewed(_call: scripts.Call[Any], reply: Lease | None, _asked_at: float) -> None:
    if reply is None:
        record("fenced", detail="renew")


def _reaped(_call: scripts.Call[Any], reply: Reaped, _asked_at: float) -> None:
    for task in reply.reaped:
        record("reaped", task)


def _swept(_call: scripts.Call[Any], reply: Swept, _asked_at: float) -> None:
    for task in reply.again:
        record("swept", task)


def _save(_call: scripts.Call[Any], reply: Any, _asked_at: float) -> None:
    is_accepted, *checkpoints = reply
    for _ in checkpoints or [None]:
        _saved(is_checkpoint=bool(checkpoints), is_refused=not is_accepted)


def _saved(*, is_checkpoint: bool, is_refused: bool) -> None:
    if is_refused:
        record("fenced", detail="checkpoint")
    elif is_checkpoint and GATE in os.environ:
        record("saved", detail="checkpoint")


def _admitted(call: scripts.Call[Any], reply: Any, asked_at: float) -> None:
    if not isinstance(reply, Decision) or not call.keys[0].startswith("agent:task:"):
        return
    task, epoch = call.keys[0].removeprefix("agent:task:"), int(call.args[2])
    if reply.ownership is Ownership.GONE:
        record("fenced", task, epoch, detail="admit")
    elif reply.allowed and reply.allowed.admitted and not reply.pace_ms and not isinstance(reply.reserved, Refused):
        record("admitted", task, epoch, at=asked_at, detail=reply.allowed.verdict.value)


def _settled(_call: scripts.Call[Any], reply: Any, asked_at: float) -> None:
    """Record the latest time at which the breaker opened and the earliest at which it closed."""
    if isinstance(reply, Settled) and reply.transition.changed:
        if reply.transition.after == "open":
            record("opened")
        elif reply.transition.after == "closed":
            record("closed", at=asked_at)


_RECORDERS: Mapping[str, Callable[[scripts.Call[Any], Any, float], None]] = {
    "shared/queue/scripts/claim": _claimed,
    "shared/queue/scripts/finish": _finished,
    "shared/queue/scripts/release": _released,
    "shared/queue/scripts/renew": _renewed,
    "shared/queue/scripts/reap": _reaped,
    "shared/queue/scripts/sweep": _swept,
    "worker/guards/scripts/admit": _admitted,
    "worker/state/saver/scripts/save": _save,
    "worker/guards/scripts/settle": _settled,
}

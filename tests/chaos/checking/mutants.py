"""The product with one rule disabled: the checker must detect each of them.

A mutant changes the source of scripts as they are run, or patches a function of the worker, in the worker process only.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.worker.fleet import outcomes
from langgraph_rq.worker.fleet.claiming import Claimer
from langgraph_rq.worker.fleet.graph_worker import GraphWorker
from langgraph_rq.worker.fleet.lease import LeaseKeeper
from tests.chaos.checking.history import record


@dataclass(frozen=True, slots=True)
class Mutant:
    """The disabled rule: pieces of scripts, or what `patch` patches."""

    scripts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    patch: Callable[[], None] | None = None


def _reap_at_once() -> None:
    reap = LeaseKeeper._reap

    def hasty(self: LeaseKeeper) -> float:
        self._unbroken_since = -math.inf
        return reap(self)

    LeaseKeeper._reap = hasty


def _never_give_back() -> None:
    async def nothing(_self: Claimer, _worker: str, _task_id: str) -> None:
        pass

    Claimer.give_back = nothing


def _open_postgres() -> None:
    from langgraph_rq.worker.state.postgres import statements

    for verb in ("BEGIN", "PUT", "PUT_WRITES", "EXPIRE"):
        statement = getattr(statements, verb)
        for rule in (statements._NOT_OUTDATED, statements._HAS_BEGUN):
            statement = statement.replace(rule, "true")
        setattr(statements, verb, statement)


def _go_on() -> None:
    """Let a worker that was reaped keep its tasks and start calls."""
    GraphWorker._stand_down = lambda _self: None
    _hold_for_ever()


def _commit_once() -> None:
    class Once(Batcher):
        async def run(self, call: scripts.Call[Any]) -> Any:
            try:
                return await super().run(call)
            except RedisError:
                record("gave up")
                raise

    outcomes.commit_batcher = Once


def _hold_for_ever() -> None:
    GraphWorker.is_held = property(lambda _self: True)


def _use_own_clock() -> None:
    """Not a mutant of a rule, but the fault of C11: this process's clock is an hour ahead."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + 3600
    time.time_ns = lambda: now_ns() + 3600 * 10**9


MUTANTS: Mapping[str, Mutant] = {
    "clock an hour ahead": Mutant(patch=_use_own_clock),
    "finish without a fence": Mutant(
        {
            "shared/queue/scripts/finish": ("if not is_owner then", "if false then"),
        }
    ),
    "a claim forgets the owner": Mutant({"shared/queue/scripts/claim": ("redis.call('SADD', own_key, id)", "")}),
    "a claim takes what its worker does not serve": Mutant(
        {"shared/queue/scripts/claim": ("not (cancel or serves(graphs, graph))", "false")}
    ),
    "checkpoints without a fence": Mutant(
        {
            f"worker/state/saver/scripts/{verb}": rule
            for verb, rule in (
                ("begin", ("return given < last", "return false")),
                ("expire_thread", ("return given < last", "return false")),
                ("save", ("return token == '' or last == tonumber(token)", "return true")),
            )
        }
    ),
    "checkpoints without a time to live": Mutant(
        {"worker/state/saver/scripts/save": ("  keep(state_key, index_key, longer(ttl_ms))", "")}
    ),
    "checkpoints in Postgres without a fence": Mutant(patch=_open_postgres),
    "former owners go on": Mutant({"worker/guards/scripts/admit": ("if ownership ~= 1 then", "if false then")}, _go_on),
    "reaping right after an outage": Mutant(patch=_reap_at_once),
    "unknown tasks are not given back": Mutant(patch=_never_give_back),
    "a result is committed once only": Mutant(patch=_commit_once),
    "calls after the lease": Mutant(patch=_hold_for_ever),
    "a blocking task is not marked": Mutant(
        {"shared/queue/scripts/running/block": ("redis.call('HSET', task_key, 'blocked_in', line)", "")}
    ),
    "a cancel is not seen": Mutant({"worker/guards/scripts/admit": ("return cancel and 2 or 1", "return 1")}),
}

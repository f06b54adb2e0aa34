"""One run of a task as the guards see it: who pays, until when, what it has used, and its calls in flight."""

import time
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langgraph_rq.shared.budget.token_budget import Charge, Payer, Request, Reservation
from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.queue.answers import Ownership, Use
from langgraph_rq.shared.queue.attempts import owns_call, use_call
from langgraph_rq.worker.guards.call_size import CallSize
from langgraph_rq.worker.guards.waiting import AttemptWaits
from langgraph_rq.worker.records.journal import AnswerJournal
from langgraph_rq.worker.records.ledger import Ledger

if TYPE_CHECKING:
    from langgraph_rq.worker.guards.guards import Guards

_CALL_ERRORS = 16


@dataclass(frozen=True, slots=True)
class Used:
    """The tokens that a call used, from its provider; `is_estimated` if the provider did not report them."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    is_estimated: bool = False


@dataclass(slots=True)
class Admitted:
    """A model call that may start; it must be settled, whatever its outcome."""

    rid: str
    breaker: str
    model: str
    generation: int
    size: CallSize
    request: Request
    payer: Payer
    held: Reservation | None = None
    received_bytes: int = 0
    """Of the answer, as far as it came: the measure of a stream that reports no usage."""
    is_probe: bool = False
    """Whether the breaker is half-open and waits for the outcome of this call."""
    pace: Pace | None = None
    """The rates at which it was booked; None: its model has none."""
    was_busy: bool = False
    """Whether it had to wait for the budget, so that other calls leave room for it."""
    began_at: str = ""
    """The checkpoint on which its node began; empty: unknown."""
    at: float = field(default_factory=time.monotonic)

    @property
    def booked_tokens(self) -> int:
        """The tokens that count for the rate of its model while it runs."""
        return self.request.input.tokens + self.request.output.tokens

    @property
    def granted_tokens(self) -> int | None:
        """The output tokens that the budget had room for, if less than requested; None: all of them."""
        is_shrunk = self.held is not None and self.held.output_tokens < self.request.output.tokens
        return self.held.output_tokens if self.held and is_shrunk else None


@dataclass(slots=True)
class TaskGuard:
    """One run of a task: its owner, payer and deadline, and its usage so far."""

    guards: "Guards"
    task_id: str | None = None
    epoch: int = 0
    worker: str = ""
    thread: str = ""
    """Of the task, in Redis; empty: not read yet."""
    token: int | None = None
    """The fencing token of its claim, which writes to the thread carry."""
    last_checkpoint: str = ""
    """The id of the last one of the root graph that it has saved on its thread, but for that of its input."""
    payer: Payer = field(default_factory=Payer)
    deadline_at: float | None = None
    """On the monotonic clock; None: an outage of Redis is an error at once."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    model: str | None = None
    """The model that answered last."""
    fallback_used: bool = False
    budget_permille: int = 0
    """Fill level of the tightest limit at the last admission, in thousandths."""
    estimated_calls: int = 0
    """Calls whose provider did not report what they used."""
    is_over: bool = False
    open: dict[Any, Admitted] = field(default_factory=dict)
    """Calls of unguarded models that have not ended, by LangChain's run id."""
    call_errors: deque[tuple[BaseException, str]] = field(default_factory=lambda: deque(maxlen=_CALL_ERRORS))
    """The last exceptions of model calls, each with its breaker; an exception of any other code is the graph's own."""
    waits: AttemptWaits = field(default_factory=AttemptWaits)
    journal: AnswerJournal | None = None
    """The answers of models since its last checkpoint; None: they are not recorded."""
    ledger: Ledger | None = None
    """The calls that are made once; None: there are no checkpoints."""
    _sequence: "count[int]" = field(default_factory=lambda: count(1))

    def next_rid(self) -> str:
        """Return a new reservation id for one HTTP attempt; ids are never reused, because reserving is idempotent."""
        task = self.task_id or f"free-{uuid4().hex}"
        return f"{task}:{self.epoch}:{next(self._sequence)}"

    def owns_call(self) -> Call[Ownership] | None:
        """Return the check that this worker owns the task; None outside of any task."""
        return owns_call(self.task_id, self.epoch, self.worker) if self.task_id else None

    def note_checkpoint(self, thread: str, checkpoint_id: str) -> None:
        """Forget what its nodes have paid for and done: the checkpoint of the root graph behind them is saved.

        Those of the next step may run already, with `durability="async"`: what they have done stays.

        Args:
            thread: Of the checkpoint; a node may run another graph, on another thread.
            checkpoint_id: Its id.
        """
        if self.ledger and self.ledger.thread != thread:
            return
        if thread == self.thread:
            self.last_checkpoint = checkpoint_id
        self.waits.forget(checkpoint_id)
        for records in (self.journal, self.ledger):
            forget = records.forget_call(checkpoint_id) if records else None
            if forget:
                self.guards.loops.deliver_in_background(forget, lambda _: None)

    def add_usage(self, charge: Charge) -> Call[bool] | None:
        """Add a call's usage, and return the call that adds it to the task in Redis; None outside of any task."""
        used = Use(charge.input_tokens, charge.output_tokens, charge.cost_nano_usd, int(charge.is_estimated))
        self.input_tokens += used.input_tokens
        self.output_tokens += used.output_tokens
        self.cost_nano_usd += used.cost_nano_usd
        self.estimated_calls += used.estimated_calls
        return use_call(self.task_id, used) if self.task_id else None


current_task: ContextVar[TaskGuard | None] = ContextVar("current_task", default=None)
"""The run that this context belongs to; threads and tasks that LangGraph starts inherit it."""


def note_saved(thread: str, namespace: str, checkpoint_id: str, metadata: Mapping[str, Any]) -> None:
    """Note for the current task that a checkpoint of the root graph behind some of its nodes is saved.

    That of a subgraph does not keep what the node around it has paid for, and that of an input may be saved while the
    first node runs.
    """
    task = current_task.get()
    if task and not namespace and metadata.get("source") != "input":
        task.note_checkpoint(thread, checkpoint_id)


def token_of(thread: str) -> int | None:
    """Return the fencing token of the current task if `thread` is its own; None: it is not, or there is no task."""
    task = current_task.get()
    return task.token if task and task.thread == thread else None


def find_guards(guards: "Guards | None", caller: str) -> tuple["Guards", TaskGuard]:
    """Return `guards`, or else those of the current task, with the run that a call belongs to.

    Raises:
        RuntimeError: there are neither; the message begins with `caller`.
    """
    task = current_task.get()
    guards = guards or (task.guards if task else None)
    if guards is None:
        raise RuntimeError(f"{caller} called outside of a worker's task: give guards=Guards(...)")
    return guards, task or TaskGuard(guards)

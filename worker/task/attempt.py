"""One attempt at a task: its identity, what it has used, and what is recorded about it (log lines, spans, audit).

The worker makes an attempt of each task that it claims. `enter` makes it the scope of the run: code that runs on the
task's behalf finds it by `current_task`, which the threads and tasks that LangGraph starts inherit. At its end the
records are sent with the commit.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, Self, TypeVar

from opentelemetry import trace

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.keys import TaskField, task_hash
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry.audit import Action
from langgraph_rq.shared.telemetry.logs import bind, get_logger, listen
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.outputs.failures import lines
from langgraph_rq.worker.records.journal import AnswerJournal
from langgraph_rq.worker.records.ledger import Ledger
from langgraph_rq.worker.task.result import Ended
from langgraph_rq.worker.task.run_context import RunContext
from langgraph_rq.worker.tracing.attempt_spans import AttemptSpans, span_id

P = ParamSpec("P")
T = TypeVar("T")

_log = get_logger(__name__)

_EXPECTED = {State.SUCCESS, State.INTERRUPTED, State.CANCELLED}
"""States that are no failure: they are logged at info, and their spans have no error."""


@dataclass(slots=True, kw_only=True)
class Attempt(TaskGuard):
    """The scope of one run, from claim to commit.

    The guards read their part of it (`TaskGuard`): the owner, the payer, the deadline, the tokens used.
    """

    claimed: Claimed
    context: RunContext
    input_bytes: int
    """How much of the worker's memory the task's data take; once they are read, their inflated size."""
    is_cancelled: bool = False
    """Whether the task's user has cancelled it; then the run ends as cancelled when its asyncio task is cancelled."""
    task: Task | None = None
    """The claimed task; None until it is read."""
    spans: AttemptSpans | None = None
    """None: it has no spans, because it is not read, not sampled, or over."""
    dropped: str | None = None
    """The task, by its id in Redis, whose question this one drops."""

    @classmethod
    def of(cls, claimed: Claimed, worker: str, context: RunContext) -> Self:
        """Make the attempt of `worker` at a claimed task."""
        return cls(
            guards=context.guards,
            task_id=claimed.id,
            epoch=claimed.epoch,
            worker=worker,
            claimed=claimed,
            context=context,
            token=claimed.token,
            input_bytes=len(claimed.data),
            is_cancelled=claimed.is_cancelled,
            input_tokens=claimed.used.input_tokens,
            output_tokens=claimed.used.output_tokens,
            cost_nano_usd=claimed.used.cost_nano_usd,
            estimated_calls=claimed.used.estimated_calls,
        )

    def enter(self) -> None:
        """Become the scope of this context. Call it once, first thing in the asyncio task that runs the attempt."""
        claimed = self.claimed
        current_task.set(self)
        bind(task_id=claimed.id, attempt=claimed.epoch, worker=self.worker)
        _log.debug("task.claimed", queue=claimed.queue, crashes=claimed.crashes, input_bytes=self.input_bytes)

    def read(self, task: Task) -> None:
        """Add the task itself: from here on log lines name its graph, thread and user."""
        self.task = task
        self.thread = task.thread_key
        self.payer = Payer(task.tenant, task.user_id, task.task_id)
        if self.context.checkpointer and self.context.serializer:
            codec, claimed = self.context.serializer, self.claimed
            self.ledger = Ledger(task.thread_key, codec, self.context.ledger_ttl_ms)
            if self.context.answer_journal:
                self.journal = AnswerJournal(claimed.id, claimed.epoch, self.worker, claimed.failures, codec)
        about: dict[str, Any] = {"graph": task.graph, "thread_id": task.thread_id, "user_id": task.user_id}
        self.spans = _recorded(AttemptSpans.begin, self.context.tracer, self.claimed, task)
        here = trace.get_current_span()
        if here.get_span_context().is_valid:
            about["trace_id"] = f"{here.get_span_context().trace_id:032x}"
            about["span_id"] = span_id(here) if self.context.tracer else None
        bind(**about)
        _log.info("task.started", queued_ms=self._queued_ms, attempt=self.claimed.epoch)

    async def read_stop(self) -> tuple[bool, dict[str, str]]:
        """Read whether the task is to be rolled back, and who cancelled it, as metadata of its result."""
        fields = [TaskField.CANCEL, TaskField.CANCEL_REASON]
        found: Any = await self.context.redis.hmget(task_hash(self.claimed.id), fields)
        cancel, reason = found
        return cancel == b"rollback", {"cancel_reason": reason.decode(errors="replace")} if reason else {}

    def stop_calls(self) -> None:
        """Let no further call start: the run is being ended."""
        self.deadline_at = time.monotonic()

    def leave_graph(self, ended: Ended | None) -> None:
        """End the spans of the graph: its outcome is known, and is going to be written.

        Args:
            ended: How the task ended; None when it goes back to the queue.
        """
        bind(node=None)
        if self.spans:
            bind(span_id=self.spans.id)
            _recorded(self._leave_spans, self.spans, ended)

    def _leave_spans(self, spans: AttemptSpans, ended: Ended | None) -> None:
        spans.leave_graph(ended.state if ended else None)
        if ended and ended.error and ended.state not in _EXPECTED:
            spans.add_exception(self._told(ended.error))

    def end(self, error: str | None = None) -> None:
        """End the attempt's span, once; `error` is the type of what went wrong."""
        spans, self.spans = self.spans, None
        if spans:
            _recorded(spans.end, error)

    def audit_call(self, ended: Ended) -> scripts.Call[None] | None:
        """Return the call that writes the audit entry of this end.

        It is sent before the commit: a worker that dies right after the commit must not take the entry along.
        """
        if self.context.audit is None:
            return None
        return self.context.audit.entry_call(
            Action.ENDED,
            self.claimed.id,
            actor=self.worker,
            outcome=ended.state,
            error=ended.error_type,
            attempts=self.claimed.attempts,
            model=self.model,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost_nano_usd=self.cost_nano_usd,
            usage_estimated=self.estimated_calls > 0 or None,
        )

    def fenced_call(self) -> scripts.Call[None] | None:
        """Return the call that writes the audit entry of a refused commit."""
        if self.context.audit is None:
            return None
        details = {"actor": self.worker, "attempts": self.claimed.attempts}
        return self.context.audit.entry_call(Action.FENCED, self.claimed.id, **details)

    def log_end(self, ended: Ended) -> None:
        """Log how the task ended, once that is committed."""
        run_ms = round(ended.run_s * 1000)
        is_expected = ended.state in _EXPECTED
        log = _log.info if is_expected else _log.warning
        log(
            "task.completed" if is_expected else "task.failed",
            graph=self.task.graph if self.task else None,
            state=ended.state,
            error=ended.error_type,
            **self._told(ended.error or {}),
            duration_ms=run_ms,
            total_ms=self._queued_ms + run_ms,
            input_bytes=self.input_bytes,
            result_bytes=len(ended.document),
            model=self.model,
            cost_nano_usd=self.cost_nano_usd,
        )

    def _told(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """Return what logs and spans say of a result's error; its message may quote a prompt, unless it is masked."""
        redaction = self.context.redaction
        is_masked = redaction is not None and not redaction.refuses
        names = ("node", "exception", "message") if is_masked else ("node", "exception")
        told: dict[str, Any] = {name: error[name] for name in names if error.get(name)}
        frames = lines(error, has_messages=is_masked)
        return {**told, "frames": frames} if frames else told

    @property
    def _queued_ms(self) -> int:
        return self.claimed.claimed_at_ms - self.claimed.created_at_ms


def _recorded(record: Callable[P, T], *told: P.args, **named: P.kwargs) -> T | None:
    """Let no fault of a span end its task: a TracerProvider of the user's may raise anything."""
    try:
        return record(*told, **named)
    except Exception as error:
        _log.warning("record.refused", error=type(error).__name__)
        return None


def error_of(ended: Ended | None) -> str | None:
    """Return the type of what went wrong; None: nothing did."""
    return ended.error_type if ended and ended.state not in _EXPECTED else None


def _add_model_call(called: Mapping[str, Any]) -> None:
    attempt = current_task.get()
    if isinstance(attempt, Attempt) and attempt.spans:
        _recorded(attempt.spans.add_model_call, called)


listen("model.called", _add_model_call)

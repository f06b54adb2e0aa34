"""One attempt at a task: its identity, what it has used, and what is recorded about it (log lines, spans, audit).

The worker makes an attempt of each task that it claims. `enter` makes it the scope of the run: code that runs on the
task's behalf finds it by `current_task`, which the threads and tasks that LangGraph starts inherit. At its end the
records are sent with the commit.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry import tracing
from langgraph_rq.shared.telemetry.audit import Action
from langgraph_rq.shared.telemetry.logs import bind, bound, get_logger, listen
from langgraph_rq.shared.telemetry.otlp import SCOPE
from langgraph_rq.shared.telemetry.spans import Kind, Span, SpanId, Value, new_span_id
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.task.result import Ended
from langgraph_rq.worker.task.run_context import RunContext

_log = get_logger(__name__)

MOST_SPANS = 1_000
"""Spans below one attempt: a graph that loops must not fill Redis with them."""

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
    read_ns: int = 0
    parent: SpanId | None = None
    """The span below which the task was submitted."""
    span: SpanId | None = None
    """The attempt's own place in the trace; None: it has no spans."""
    graph_span: Span | None = None
    spans: list[Span] = field(default_factory=list)
    """Spans below its own, in the order in which they began, so that parents come first."""
    has_cut_spans: bool = False

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
        self.task, self.read_ns = task, self.read_ns or time.time_ns()
        self.payer = Payer(task.tenant, task.user_id, task.task_id)
        about: dict[str, Any] = {"graph": task.graph, "thread_id": task.thread_id, "user_id": task.user_id}
        self.parent = SpanId.parse(task.traceparent) if task.traceparent else None
        if self.context.is_traced:
            own = (self.parent or tracing.new_trace(self.claimed.id)).attempt(self.claimed.id, self.claimed.epoch)
            self.span = own if own.is_sampled else None
            about["trace_id"], about["span_id"] = own.trace, own.span
        elif self.parent:
            about["trace_id"] = self.parent.trace
        bind(**about)
        _log.info("task.started", queued_ms=self._queued_ms, attempt=self.claimed.epoch)

    def stop_calls(self) -> None:
        """Let no further call start: the run is being ended."""
        self.deadline_at = time.monotonic()

    def begin_span(self, name: str, trace: str, parent: str) -> Span | None:
        """Begin a span below another; None: there are too many, and nothing below it is kept either."""
        if len(self.spans) >= MOST_SPANS:
            self.has_cut_spans = True
            return None
        span = Span(name, trace, new_span_id(), parent)
        self.spans.append(span)
        return span

    def spans_call(self, ended: Ended | None) -> scripts.Call[bool] | None:
        """End all spans and return the call that writes them, to be sent before the commit.

        Args:
            ended: How the task ended; None when it goes back to the queue.
        """
        if self.span is None:
            bind(node=None)
            return None
        bind(node=None, span_id=self.span.span)
        spans = self._end_spans(self.span, ended)
        self.spans, self.span = [], None
        return tracing.send_call(spans, (self.claimed.id, self.claimed.epoch, self.worker))

    def audit_call(self, ended: Ended | None) -> scripts.Call[None] | None:
        """Return the call that writes the audit entry of this end.

        It is sent before the commit: a worker that dies right after the commit must not take the entry along.
        """
        if self.context.audit is None or ended is None:
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
            duration_ms=run_ms,
            total_ms=self._queued_ms + run_ms,
            input_bytes=self.input_bytes,
            result_bytes=len(ended.document),
            model=self.model,
            cost_nano_usd=self.cost_nano_usd,
        )

    @property
    def _queued_ms(self) -> int:
        return self.claimed.claimed_at_ms - self.claimed.created_at_ms

    def _end_spans(self, own: SpanId, ended: Ended | None) -> list[Span]:
        """End what is open, and put the attempt's own spans around the rest: parents first."""
        for span in self.spans:
            if not span.end_ns:  # LangChain reports no end of a cancelled run
                span.end("cancelled")
        claimed, submit = self.claimed, self.parent.span if self.parent else None
        claimed_ns, now_ns = claimed.claimed_at_ms * 1_000_000, time.time_ns()
        trace, here = own.trace, own.span
        attempt = Span(f"attempt {claimed.epoch}", trace, here, submit, Kind.CONSUMER, claimed_ns, now_ns)
        attempt.attributes = {
            "messaging.system": SCOPE,
            "messaging.operation.type": "process",
            "messaging.destination.name": claimed.queue,
            "messaging.message.id": claimed.id,
            "langgraph_rq.attempt": claimed.epoch,
        }
        if claimed.epoch > 1:
            attempt.links = (own.attempt(claimed.id, claimed.epoch - 1),)
        if self.has_cut_spans:
            attempt.attributes["langgraph_rq.spans_cut"] = True
        spans = [attempt]
        if claimed.epoch == 1 and submit:
            created_ns = claimed.created_at_ms * 1_000_000
            spans.append(Span("queue wait", trace, new_span_id(), submit, Kind.INTERNAL, created_ns, claimed_ns))
        spans.append(Span("claim", trace, new_span_id(), here, Kind.INTERNAL, claimed_ns, self.read_ns))
        spans += self.spans
        if ended:
            attempt.error = None if ended.state in _EXPECTED else ended.error_type
            ran_ns = self.graph_span.end_ns if self.graph_span else now_ns
            state: dict[str, Value] = {"langgraph_rq.state": ended.state.value}
            spans.append(Span("finish", trace, new_span_id(), here, Kind.INTERNAL, ran_ns, now_ns, state))
        else:
            attempt.attributes["langgraph_rq.released"] = True
        return spans


def _add_model_span(called: Mapping[str, Any]) -> None:
    attempt = current_task.get()
    if not isinstance(attempt, Attempt) or attempt.span is None:
        return
    # The bound span is that of the node that calls: each node runs in a context of its own.
    span = attempt.begin_span(f"chat {called['model']}", attempt.span.trace, bound()["span_id"])
    if span is None:
        return
    span.kind = Kind.CLIENT
    span.end(None if called["outcome"] == "ok" else called["outcome"])
    span.start_ns = span.end_ns - called["duration_ms"] * 1_000_000
    span.attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": called["provider"],
        "gen_ai.request.model": called["model"],
        "gen_ai.usage.input_tokens": called["input_tokens"],
        "gen_ai.usage.output_tokens": called["output_tokens"],
        "langgraph_rq.usage_estimated": called["estimated"],
    }


listen("model.called", _add_model_span)

"""What is told about one attempt at a task: its log lines, its spans, its entry in the audit log.

The worker begins an attempt when it has claimed a task, says what the task is once it is read, and at the end takes the
records to be written with the commit. Everything in between is found by `current_attempt`, which threads and tasks that
LangGraph starts inherit.
"""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.task_queue import Claimed
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry import tracing
from langgraph_rq.shared.telemetry.audit import Action, Audit
from langgraph_rq.shared.telemetry.logs import bind, bound, get_logger, listen
from langgraph_rq.shared.telemetry.otlp import SCOPE
from langgraph_rq.shared.telemetry.spans import Kind, Span, SpanId, Value, new_span_id
from langgraph_rq.worker.guards.guards import current_task
from langgraph_rq.worker.task.result import Ended

_log = get_logger(__name__)

LONGEST_ATTEMPT = 1_000
"""Spans below one attempt: a graph that loops must not fill Redis with them."""

_GOOD = {State.SUCCESS, State.INTERRUPTED, State.CANCELLED}


@dataclass(slots=True)
class Attempt:
    """One attempt, from claim to commit."""

    claimed: Claimed
    worker: str
    audit: Audit | None
    is_traced: bool
    task: Task | None = None
    read_ns: int = 0
    parent: SpanId | None = None
    """The span below which the task was submitted."""
    span: SpanId | None = None
    """Its own place in the trace; None: there are no spans."""
    graph_span: Span | None = None
    spans: list[Span] = field(default_factory=list)
    """Below its own, in the order in which they began, so that parents come first."""
    has_cut_spans: bool = False

    def read(self, task: Task) -> None:
        """Say what the claimed task is: from here on log lines name its graph, thread and user."""
        self.task, self.read_ns = task, self.read_ns or time.time_ns()
        about: dict[str, Any] = {"graph": task.graph, "thread_id": task.thread_id, "user_id": task.user_id}
        self.parent = SpanId.parse(task.traceparent) if task.traceparent else None
        if self.is_traced:
            own = (self.parent or tracing.new_trace(self.claimed.id)).attempt(self.claimed.id, self.claimed.epoch)
            self.span = own if own.is_sampled else None
            about["trace_id"], about["span_id"] = own.trace, own.span
        elif self.parent:
            about["trace_id"] = self.parent.trace
        bind(**about)
        _log.info("task.started", queued_ms=self._queued_ms, attempt=self.claimed.epoch)

    def begin_span(self, name: str, trace: str, parent: str) -> Span | None:
        """Begin a span below another; None: there are too many, and nothing below it is kept either."""
        if len(self.spans) >= LONGEST_ATTEMPT:
            self.has_cut_spans = True
            return None
        span = Span(name, trace, new_span_id(), parent)
        self.spans.append(span)
        return span

    def spans_call(self, ended: Ended | None) -> scripts.Call[bool] | None:
        """End it, and answer what is to be written just before the commit; None for `ended`: it is given back."""
        if self.span is None:
            bind(node=None)
            return None
        bind(node=None, span_id=self.span.span)
        spans = self._end_spans(self.span, ended)
        self.spans, self.span = [], None
        return tracing.send_call(spans, (self.claimed.id, self.claimed.epoch, self.worker))

    def audit_call(self, ended: Ended | None) -> scripts.Call[None] | None:
        """What is to be written just before the commit: a worker that dies right after it must not take it along."""
        if self.audit is None or ended is None:
            return None
        used = current_task.get()
        return self.audit.entry_call(
            Action.ENDED,
            self.claimed.id,
            actor=self.worker,
            outcome=ended.state,
            error=ended.error_type,
            attempts=self.claimed.epoch,
            model=used and used.model,
            input_tokens=used.input_tokens if used else 0,
            output_tokens=used.output_tokens if used else 0,
            cost_nano_usd=used.cost_nano_usd if used else 0,
        )

    def fenced_call(self) -> scripts.Call[None] | None:
        """What is to be written when that end was refused."""
        if self.audit is None:
            return None
        return self.audit.entry_call(Action.FENCED, self.claimed.id, actor=self.worker, attempts=self.claimed.epoch)

    def tell(self, ended: Ended) -> None:
        """Say how it ended, once that is written."""
        run_ms = round(ended.run_s * 1000)
        tell = _log.info if ended.state in _GOOD else _log.warning
        event = "task.completed" if ended.state in _GOOD else "task.failed"
        tell(
            event,
            graph=self.task.graph if self.task else None,
            state=ended.state,
            error=ended.error_type,
            duration_ms=run_ms,
            total_ms=self._queued_ms + run_ms,
            input_bytes=len(self.claimed.data),
            result_bytes=len(ended.document),
        )

    @property
    def _queued_ms(self) -> int:
        return self.claimed.claimed_at_ms - self.claimed.created_at_ms

    def _end_spans(self, own: SpanId, ended: Ended | None) -> list[Span]:
        """End what is open, and put the attempt's own spans around the rest: parents first."""
        for span in self.spans:
            if not span.end_ns:  # it was cancelled, and nobody told
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
            attempt.error = None if ended.state in _GOOD else ended.error_type
            ran_ns = self.graph_span.end_ns if self.graph_span else now_ns
            state: dict[str, Value] = {"langgraph_rq.state": ended.state.value}
            spans.append(Span("finish", trace, new_span_id(), here, Kind.INTERNAL, ran_ns, now_ns, state))
        else:
            attempt.attributes["langgraph_rq.released"] = True
        return spans


current_attempt: ContextVar[Attempt | None] = ContextVar("current_attempt", default=None)


def begin_attempt(claimed: Claimed, worker: str, audit: Audit | None = None, *, is_traced: bool = False) -> Attempt:
    """Begin to tell about a task that was claimed just now; once, in the asyncio task that runs it."""
    attempt = Attempt(claimed, worker, audit, is_traced)
    current_attempt.set(attempt)
    bind(task_id=claimed.id, attempt=claimed.epoch, worker=worker)
    _log.debug("task.claimed", queue=claimed.queue, crashes=claimed.crashes, input_bytes=len(claimed.data))
    return attempt


def tell_task(task: Task) -> None:
    """Say what the task is that was claimed in this context."""
    attempt = current_attempt.get()
    if attempt:
        attempt.read(task)


def _add_model_span(called: Mapping[str, Any]) -> None:
    attempt = current_attempt.get()
    own = attempt.span if attempt else None
    if attempt is None or own is None:
        return
    # What log lines name is where we are: each node runs in a context of its own.
    span = attempt.begin_span(f"chat {called['model']}", own.trace, bound()["span_id"])
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
    }


listen("model.called", _add_model_span)

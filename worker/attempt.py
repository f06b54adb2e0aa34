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

from shared import lua, tracing
from shared.audit import Action, Audit
from shared.logs import bind, get_logger, listen
from shared.task_queue import Claimed
from shared.tasks import State, Task
from shared.tracing import Kind, Span, SpanId
from worker.guards import current_task
from worker.result import Ended

_log = get_logger(__name__)

LONGEST_ATTEMPT = 1_000
"""Spans of one attempt: a graph that loops must not fill Redis with them."""

_GOOD = {State.SUCCESS, State.INTERRUPTED, State.CANCELLED}


@dataclass(slots=True)
class Attempt:
    """One attempt, from claim to commit. Without tracing there are no spans."""

    claimed: Claimed
    worker: str
    audit: Audit | None
    is_traced: bool
    task: Task | None = None
    span: Span | None = None
    graph_span: Span | None = None
    spans: list[Span] = field(default_factory=list)
    """In the order in which they began, so that parents come first."""

    def read(self, task: Task) -> None:
        """Say what the claimed task is: from here on log lines name its graph, thread and user."""
        self.task = task
        bound: dict[str, Any] = {"graph": task.graph, "thread_id": task.thread_id, "user_id": task.user_id}
        if self.is_traced:
            self._begin_span(task)
        if self.span or task.traceparent:
            bound["trace_id"] = self.span.id.trace if self.span else SpanId.parse(task.traceparent or "").trace
            bound["span_id"] = self.span and self.span.id.span
        bind(**bound)
        _log.info("task.started", queued_ms=self._queued_ms, attempt=self.claimed.epoch)

    def add(self, span: Span) -> bool:
        """Keep a span; False: there are too many, and nothing below it is kept either."""
        if len(self.spans) >= LONGEST_ATTEMPT:
            if self.span:
                self.span.attributes["langgraph_rq.spans_cut"] = True
            return False
        self.spans.append(span)
        return True

    def spans_call(self, ended: Ended | None) -> lua.Call[bool] | None:
        """End it, and answer what is to be written just before the commit; None for `ended`: it is given back."""
        bind(node=None)
        if self.span is None:
            return None
        bind(span_id=self.span.id.span)
        self._end_spans(ended)
        spans, self.spans, self.span = self.spans, [], None
        if not spans[0].id.is_sampled:
            return None
        return tracing.send_call(spans, (self.claimed.id, self.claimed.epoch, self.worker))

    def audit_call(self, ended: Ended) -> lua.Call[None] | None:
        """What is to be written once it has ended."""
        if self.audit is None:
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

    def tell(self, ended: Ended) -> None:
        """Say how it ended, once that is written."""
        run_ms = round(ended.run_s * 1000)
        tell = _log.info if ended.state in _GOOD else _log.warning
        event = "task.completed" if ended.state in _GOOD else "task.failed"
        waited_ms = self.claimed.claimed_at_ms - self.claimed.created_at_ms
        tell(
            event,
            graph=self.task.graph if self.task else None,
            state=ended.state,
            error=ended.error_type,
            duration_ms=run_ms,
            total_ms=waited_ms + run_ms,
            input_bytes=len(self.claimed.data),
            result_bytes=len(ended.document),
        )

    @property
    def _queued_ms(self) -> int:
        return self.claimed.claimed_at_ms - self.claimed.created_at_ms

    def _begin_span(self, task: Task) -> None:
        """Name this attempt, as every process would, and the span of the wait before the first one."""
        claimed = self.claimed
        parent = SpanId.parse(task.traceparent) if task.traceparent else None
        trace = parent or tracing.new_trace(claimed.id)
        parent_span = parent.span if parent else None
        links = (trace.attempt(claimed.id, claimed.epoch - 1),) if claimed.epoch > 1 else ()
        attributes: dict[str, tracing.Value] = {
            "messaging.system": tracing.SCOPE,
            "messaging.operation.type": "process",
            "messaging.destination.name": claimed.queue,
            "messaging.message.id": claimed.id,
            "langgraph_rq.attempt": claimed.epoch,
        }
        claimed_ns = claimed.claimed_at_ms * 1_000_000
        self.span = Span(
            f"attempt {claimed.epoch}",
            trace.attempt(claimed.id, claimed.epoch),
            parent_span,
            Kind.CONSUMER,
            claimed_ns,
            attributes=attributes,
            links=links,
        )
        self.spans.append(self.span)
        if claimed.epoch == 1 and parent_span:
            self.spans.append(
                Span(
                    "queue wait",
                    trace.child(),
                    parent_span,
                    start_ns=claimed.created_at_ms * 1_000_000,
                    end_ns=claimed_ns,
                )
            )
        claim = Span("claim", trace.child(), self.span.id.span, start_ns=claimed_ns)
        claim.end()
        self.spans.append(claim)
        current_span.set(self.span)

    def _end_spans(self, ended: Ended | None) -> None:
        assert self.span
        for span in self.spans[1:]:
            if not span.end_ns:  # it was cancelled, and nobody told
                span.end("cancelled")
        graph_end_ns = (self.graph_span and self.graph_span.end_ns) or time.time_ns()
        if ended:
            finish = Span("finish", self.span.id.child(), self.span.id.span, start_ns=graph_end_ns)
            finish.attributes["langgraph_rq.state"] = ended.state.value
            finish.end()
            self.spans.append(finish)
        self.span.end(ended.error_type if ended and ended.state not in _GOOD else None)
        if not ended:
            self.span.attributes["langgraph_rq.released"] = True


current_attempt: ContextVar[Attempt | None] = ContextVar("current_attempt", default=None)
current_span: ContextVar[Span | None] = ContextVar("current_span", default=None)
"""The span below which a node or a call is one; each node runs in a context of its own."""


def begin_attempt(claimed: Claimed, worker: str, audit: Audit | None = None, *, is_traced: bool = False) -> Attempt:
    """Begin to tell about a task that was claimed just now; once, in the asyncio task that runs it."""
    attempt = Attempt(claimed, worker, audit, is_traced)
    current_attempt.set(attempt)
    current_span.set(None)
    bind(task_id=claimed.id, attempt=claimed.epoch, worker=worker)
    _log.debug("task.claimed", queue=claimed.queue, crashes=claimed.crashes, input_bytes=len(claimed.data))
    return attempt


def tell_task(task: Task) -> None:
    """Say what the task is that was claimed in this context."""
    attempt = current_attempt.get()
    if attempt:
        attempt.read(task)


def _add_model_span(called: Mapping[str, Any]) -> None:
    attempt, parent = current_attempt.get(), current_span.get()
    if attempt is None or parent is None:
        return
    model, now_ns = called["model"], time.time_ns()
    span = Span(
        f"chat {model}", parent.id.child(), parent.id.span, Kind.CLIENT, now_ns - called["duration_ms"] * 1_000_000
    )
    span.end(None if called["outcome"] == "ok" else called["outcome"])
    span.attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": called["provider"],
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": called["input_tokens"],
        "gen_ai.usage.output_tokens": called["output_tokens"],
    }
    attempt.add(span)


listen("model.called", _add_model_span)

"""Tell about each node of any graph: LangChain reports every run to our handler, and nodes are those with a step.

It only counts and times: what a node read and wrote is never looked at, but for how many values it wrote.
"""

import logging
import time
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

from langgraph.errors import GraphBubbleUp

from shared.logs import bind, get_logger
from shared.tracing import Span
from worker.attempt import Attempt, current_attempt

_STEP = "graph:step:"

_log = get_logger(__name__)


class NodeWatch:
    """Tells about the nodes of one attempt. `began`, `ended` and `failed` take what LangChain tells a handler."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._open: dict[UUID, _Step] = {}
        self._below: dict[UUID, _Step] = {}
        """Runs between a node and the nodes of its own graph -> the step that they belong to."""

    @classmethod
    def of_attempt(cls) -> Self | None:
        """Watch the nodes of the attempt that runs in this context; None: there is none, or nobody would hear of it."""
        attempt = current_attempt.get()
        is_heard = attempt and (attempt.span or _log.is_heard("node.failed", logging.WARNING))
        return cls(attempt) if attempt and is_heard else None

    def began(self, run_id: UUID, parent_run_id: UUID | None, tags: Sequence[str] | None, name: str) -> None:
        """A graph or a node begins; other runnables are passed over."""
        # By the run's id: LangGraph may run a node in the very context in which the one before ran.
        around = self._open.get(parent_run_id) or self._below.get(parent_run_id) if parent_run_id else None
        if parent_run_id is None and self._attempt.graph_span is None:
            self._open[run_id] = _Step(None, self._begin_graph())
        elif tags and any(tag.startswith(_STEP) for tag in tags):
            span = self._attempt.begin_span(f"node {name}", around.span.id) if around and around.span else None
            if span:
                bind(node=name, span_id=span.id.span)
            else:
                bind(node=name)
            self._open[run_id] = _Step(name, span)
            _log.debug("node.started", node=name)
        elif around:
            self._below[run_id] = around

    def ended(self, outputs: Any, run_id: UUID) -> None:
        """A node has ended."""
        step = self._end(run_id, None)
        if step:
            writes = len(outputs) if isinstance(outputs, Sized) and not isinstance(outputs, str) else 1
            _log.info("node.completed", node=step.node, duration_ms=step.ms, writes=writes)

    def failed(self, error: BaseException, run_id: UUID) -> None:
        """A node has failed, was cancelled, or asks a person and ends here for now."""
        is_question = isinstance(error, GraphBubbleUp)
        step = self._end(run_id, None if is_question else type(error).__name__)
        if step and is_question:
            _log.info("node.interrupted", node=step.node, duration_ms=step.ms)
        elif step:
            _log.warning("node.failed", node=step.node, duration_ms=step.ms, error=type(error).__name__)

    def _begin_graph(self) -> Span | None:
        attempt, task = self._attempt, self._attempt.task
        if attempt.span is None or task is None:
            return None
        span = attempt.graph_span = attempt.begin_span(f"invoke_agent {task.graph}", attempt.span)
        if span:
            span.attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": task.graph}
            if task.thread_id:
                span.attributes["gen_ai.conversation.id"] = task.thread_id
            bind(span_id=span.id.span)
        return span

    def _end(self, run_id: UUID, error: str | None) -> "_Step | None":
        """End what began; answers it if it is a node."""
        self._below.pop(run_id, None)
        step = self._open.pop(run_id, None)
        if step and step.span:
            step.span.end(error)
        return step if step and step.node else None


@dataclass(slots=True)
class _Step:
    """What has begun: a node, or the graph itself (None)."""

    node: str | None
    span: Span | None
    at: float = field(default_factory=time.monotonic)

    @property
    def ms(self) -> int:
        """How long ago that was."""
        return round((time.monotonic() - self.at) * 1000)

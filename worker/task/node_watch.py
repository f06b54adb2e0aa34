"""Log and trace each node and tool of any graph. LangChain reports every run; nodes are the runs with a step.

Nodes are counted and timed. Of what a node read and wrote, only the number of values written is looked at.
"""

import logging
import time
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Self
from uuid import UUID

from langgraph.errors import GraphBubbleUp
from opentelemetry.trace import Span

from langgraph_rq.shared.telemetry.logs import bind, get_logger
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.tracing.attempt_spans import span_id

STEP = "graph:step:"
"""The beginning of a tag of each run that is a node."""

_Step = tuple[str | None, Span | None, float]
"""A run that has begun: the node, or None for the graph itself or a tool; its span; the start, monotonic."""
_NOTHING: _Step = (None, None, 0.0)

_log = get_logger(__name__)


class NodeWatch:
    """Records the nodes and tools of one attempt. Its methods take the arguments of LangChain's handlers."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._open: dict[UUID, _Step] = {}
        self._has_graph = False
        self._below: dict[UUID, _Step] = {}
        """Runs between a node and the nodes of its own graph -> the step that they belong to."""

    @classmethod
    def of(cls, attempt: Attempt) -> Self | None:
        """Watch the nodes of an attempt; None: it has no spans, and no log level or listener asks for its nodes."""
        is_asked_for = attempt.spans or _log.isEnabledFor(logging.WARNING)
        return cls(attempt) if is_asked_for else None

    def began(self, run_id: UUID, parent_run_id: UUID | None, tags: Sequence[str] | None, name: str) -> None:
        """Begin a graph or a node; other runnables are passed over."""
        # By the run's id: LangGraph may run a node in the very context in which the one before ran.
        around = self._around(parent_run_id)
        if parent_run_id is None and not self._has_graph:
            self._has_graph = True
            self._open[run_id] = None, self._begin_graph(), 0.0
            return
        for tag in tags or ():
            if tag.startswith(STEP):
                span = self._begin(f"node {name}", around)
                bind(node=name, **({"span_id": span_id(span)} if span else {}))
                self._open[run_id] = name, span, time.monotonic()
                _log.debug("node.started", node=name)
                return
        if around:
            self._below[run_id] = around

    def tool_began(self, run_id: UUID, parent_run_id: UUID | None, name: str) -> None:
        """Begin a call of a tool."""
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        span = self._begin(f"execute_tool {name}", self._around(parent_run_id), attributes)
        self._open[run_id] = None, span, 0.0

    def ended(self, outputs: Any, run_id: UUID) -> None:
        """End a node or a tool."""
        node, ms = self._end(run_id, None)
        if node:
            writes = len(outputs) if isinstance(outputs, Sized) and not isinstance(outputs, str) else 1
            _log.info("node.completed", node=node, duration_ms=ms, writes=writes)

    def failed(self, error: BaseException, run_id: UUID) -> None:
        """End a node or tool that has failed, was cancelled, or interrupts the graph with a question."""
        is_question = isinstance(error, GraphBubbleUp)
        node, ms = self._end(run_id, None if is_question else type(error).__name__)
        if node and is_question:
            _log.info("node.interrupted", node=node, duration_ms=ms)
        elif node:
            _log.warning("node.failed", node=node, duration_ms=ms, error=type(error).__name__)

    def _around(self, run_id: UUID | None) -> _Step | None:
        return self._open.get(run_id) or self._below.get(run_id) if run_id else None

    def _begin(self, name: str, around: _Step | None, attributes: Mapping[str, str] | None = None) -> Span | None:
        spans = self._attempt.spans
        return spans.open(name, around[1] if around else None, attributes) if spans else None

    def _begin_graph(self) -> Span | None:
        task = self._attempt.task
        if task is None:
            return None
        attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": task.graph}
        if task.thread_id:
            attributes["gen_ai.conversation.id"] = task.thread_id
        span = self._begin(f"invoke_agent {task.graph}", None, attributes)
        if span:
            bind(span_id=span_id(span))
        return span

    def _end(self, run_id: UUID, error: str | None) -> tuple[str | None, int]:
        """End a run; returns the name of its node (None: it is no node) and how long it ran (ms)."""
        node, span, began_at = self._open.pop(run_id, _NOTHING)
        if span and self._attempt.spans:
            self._attempt.spans.close(span, error)
        if node is None:
            self._below.pop(run_id, None)
        return node, round((time.monotonic() - began_at) * 1000)

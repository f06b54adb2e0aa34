"""Tell about each node of any graph: LangChain reports every run to this handler, and nodes are those with a step.

It only counts and times: what a node read and wrote is never looked at, but for how many values it wrote.
"""

import logging
import time
from collections.abc import Sized
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from langgraph.errors import GraphBubbleUp

from shared.logs import bind, get_logger
from shared.tasks import Task
from shared.tracing import Span
from worker.attempt import Attempt, current_attempt, current_span

_STEP = "graph:step:"

_log = get_logger(__name__)

node_hook: ContextVar["NodeHandler | None"] = ContextVar("node_hook", default=None)
register_configure_hook(node_hook, inheritable=True)


def watch_nodes(task: Task) -> None:
    """Say what task runs in this context, and tell about its nodes from here on."""
    attempt = current_attempt.get()
    if attempt:
        attempt.read(task)
        if attempt.span or _log.is_heard("node.failed", logging.WARNING):
            node_hook.set(NodeHandler(attempt))


class NodeHandler(BaseCallbackHandler):
    """Tells about the nodes of one attempt."""

    run_inline = True  # in the node's own context, so that what is bound there is in the node's log lines
    ignore_llm = True
    ignore_chat_model = True
    ignore_agent = True
    ignore_retriever = True
    ignore_custom_event = True
    ignore_retry = True

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._open: dict[UUID, _Step] = {}
        self._below: dict[UUID, _Step] = {}
        """Runs between a node and the nodes of its own graph -> the step that they belong to."""

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,  # noqa: ARG002 - LangChain's signature
        inputs: Any,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph or a node begins; other runnables are passed over."""
        # By the run's id: LangGraph may run a node in the very context in which the one before ran.
        around = self._open.get(parent_run_id) or self._below.get(parent_run_id) if parent_run_id else None
        if parent_run_id is None and self._attempt.graph_span is None:
            self._open[run_id] = _Step(None, self._begin_graph())
        elif tags and any(tag.startswith(_STEP) for tag in tags):
            name = str(kwargs.get("name"))
            span = self._begin_span(f"node {name}", around.span if around else None)
            bind(node=name, **({"span_id": span.id.span} if span else {}))
            self._open[run_id] = _Step(name, span)
            _log.debug("node.started", node=name)
        elif around:
            self._below[run_id] = around

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        """A node has ended."""
        step = self._end(run_id, None)
        if step:
            writes = len(outputs) if isinstance(outputs, Sized) and not isinstance(outputs, str) else 1
            _log.info("node.completed", node=step.node, duration_ms=step.ms, writes=writes)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """A node has failed, was cancelled, or asks a person and ends here for now."""
        is_question = isinstance(error, GraphBubbleUp)
        step = self._end(run_id, None if is_question else type(error).__name__)
        if step and is_question:
            _log.info("node.interrupted", node=step.node, duration_ms=step.ms)
        elif step:
            _log.warning("node.failed", node=step.node, duration_ms=step.ms, error=type(error).__name__)

    def _begin_graph(self) -> Span | None:
        graph = self._attempt.task.graph if self._attempt.task else ""
        span = self._begin_span(f"invoke_agent {graph}", self._attempt.span)
        if span and self._attempt.task:
            span.attributes |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": graph}
            if self._attempt.task.thread_id:
                span.attributes["gen_ai.conversation.id"] = self._attempt.task.thread_id
            self._attempt.graph_span = span
            bind(span_id=span.id.span)
        return span

    def _begin_span(self, name: str, parent: Span | None) -> Span | None:
        if parent is None:
            return None
        span = Span(name, parent.id.child(), parent.id.span)
        if not self._attempt.add(span):
            return None
        current_span.set(span)
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

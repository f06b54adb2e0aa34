"""What all tasks of one worker process share. `worker.context.open_context` builds it once; it does not change."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.store.base import BaseStore
from opentelemetry.trace import Tracer
from redis.asyncio import Redis

from langgraph_rq.shared.announcements.state_kept import StateKept
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import TaskLimits
from langgraph_rq.shared.telemetry.anchors import AnchorWriter
from langgraph_rq.shared.telemetry.audit import Audit
from langgraph_rq.worker.calls.provider_key import KeyFile
from langgraph_rq.worker.graphs.graphs import GraphPerRun, LoadedGraph
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.outputs.failures import ErrorDetail
from langgraph_rq.worker.records.ledger import TTL_MS
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.task.events import EventWriter
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.tracing.attempt_spans import find_tracer


@dataclass(frozen=True, slots=True)
class RunContext:
    """Connections, graphs, guards, limits and writers."""

    redis: Redis
    events: EventWriter
    graphs: Mapping[str, LoadedGraph | GraphPerRun]
    base_queue: str
    times: QueueTimes
    limits: TaskLimits
    guards: Guards
    keys: TaskKeys | None = None
    """Of signed tasks; None: tasks and results carry no signatures."""
    key_file: KeyFile | None = None
    """Where the key of the model API comes from; None: from no file."""
    checkpointer: Checkpointer | None = None
    """Where the graphs' checkpoints live, but for graphs with one of their own; None for none."""
    state_kept: StateKept | None = None
    """Where these are and with which secrets, as workers compare it; None: not to be compared."""
    serializer: StateSerializer | None = None
    """Writes what is kept of a run besides its checkpoints: answers of models, results of calls that are made once."""
    answer_journal: bool = False
    """Whether the answers of models are kept until the checkpoint behind their node."""
    ledger_ttl_ms: int = TTL_MS
    """How long calls that are made once are remembered if no checkpoint comes: as long as a thread."""
    store: BaseStore | None = None
    """The one that graphs get, if they bring none of their own; None: none."""
    callbacks: Sequence[BaseCallbackHandler] = ()
    """LangChain handlers of every run."""
    audit: Audit | None = None
    anchors: AnchorWriter | None = None
    """Signs the audit log as a whole; None: there is none."""
    tracer: Tracer | None = field(default_factory=find_tracer)
    """Makes the spans of attempts; None: there are none."""
    redaction: Redaction | None = None
    error_detail: ErrorDetail = ErrorDetail.FRAMES
    """What is told of an exception that ends a task."""
    cancel_grace_s: float = 5.0
    """How long a run that is cancelled, or has reached its deadline, gets to end before it is abandoned."""
    abandoned: set["asyncio.Task[Any]"] = field(default_factory=set)
    """Runs of tasks that have ended, in which a node does not let itself be cancelled."""

    def of_graph(self, loaded: LoadedGraph | GraphPerRun | None) -> "RunContext":
        """Return the context of a graph's tasks: with the graph's own checkpointer, if it keeps one."""
        own = loaded.own_checkpointer if isinstance(loaded, LoadedGraph) else None
        return replace(self, checkpointer=own) if own else self

    @property
    def result_bytes(self) -> int:
        """Longest result document."""
        return self.limits.result_bytes

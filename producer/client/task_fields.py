"""The keywords of `submit`, typed: the fields of `Task` but `input`, which is given by position, and the tenant."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from langgraph_rq.shared.run_fields import Continued, Durability, GraphCommand, RunConfig, StreamMode
from langgraph_rq.shared.tasks import Priority, Resume


class TaskFields(TypedDict, total=False):
    """What may be said of a task besides its input. `Task` has the defaults, and what is accepted."""

    task_id: str
    """Your own id: the same task again under it runs once. Default: a random UUID."""
    graph: str
    """The graph to run; default "assistant"."""
    user_id: str | None
    """The user for whom it runs: limits and turns are per user."""
    thread_id: str | None
    """The conversation that it continues. None: one of its own."""
    priority: Priority | Literal["high", "default", "low"]
    run_at: datetime | str | None
    """When it starts: a datetime with its offset, or one in ISO 8601."""
    delay_s: float | None
    """Instead, how many seconds after it was submitted; default 0."""
    deadline_s: float
    """Seconds from submission, or from that start, after which it ends as `timeout`; default 300."""
    max_attempts: int
    """How often a failing graph is run; default 1. Crashes and outages never count."""
    metadata: Mapping[str, Any]
    """Passed on to the run as LangGraph's metadata."""
    stream: Sequence[StreamMode | Literal["checkpoints", "custom", "debug", "messages", "tasks", "updates", "values"]]
    """Which of LangGraph's stream modes its events have, besides its states."""
    stream_subgraphs: bool | None
    """Whether those events tell of subgraphs too; default False."""
    command: GraphCommand | Mapping[str, Any] | None
    """LangGraph's Command {resume, update, goto} for a thread, beside the input None."""
    context: Mapping[str, Any] | None
    """LangGraph's context of the run."""
    config: RunConfig | Mapping[str, Any] | None
    """LangGraph's config of the run {configurable, tags, recursion_limit, run_name, metadata}."""
    interrupt_before: Sequence[str] | None
    """Nodes before which the run stops, as `interrupted`; "*" for all."""
    interrupt_after: Sequence[str] | None
    checkpoint_id: str | None
    """The checkpoint of the thread from which it goes on. None: the newest."""
    durability: Durability | Literal["sync", "async", "exit"] | None
    """When checkpoints are written; default sync."""
    resume: Resume | Mapping[str, Any] | None
    """Answers to the questions of an interrupted task; `Client.resume` writes them."""
    continues: Continued | Mapping[str, Any] | None
    """The task that it continues from its last checkpoint; `Client.continue_` writes it."""
    traceparent: str | None
    """The W3C trace context that its spans are below. None: the caller's current span, if there is one."""
    submitted_at: datetime
    """Default: now."""

"""The keywords of `submit`, typed: the fields of `Task` but `input`, which is given by position, and the tenant."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict

from langgraph_rq.shared.tasks import Priority, Resume, StreamMode


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
    deadline_s: float
    """Seconds from submission after which it ends as `timeout`; default 300."""
    max_attempts: int
    """How often a failing graph is run; default 1. Crashes and outages never count."""
    metadata: Mapping[str, Any]
    """Passed on to the run as LangGraph's metadata."""
    stream: Sequence[StreamMode | Literal["custom", "messages", "updates", "values"]]
    """Which of LangGraph's stream modes its events have, besides its states."""
    resume: Resume | Mapping[str, Any] | None
    """Answers to the questions of an interrupted task; `Client.resume` writes them."""
    traceparent: str | None
    """The W3C trace context that its spans are below. None: the caller's current span, if there is one."""
    submitted_at: datetime
    """Default: now."""

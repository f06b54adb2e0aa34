"""Submit tasks and read their results. Importing this needs no LangGraph."""

from producer.client import Client, Receipt, TaskStatus
from shared.errors import (
    InvalidTaskError,
    LanggraphRqError,
    QueueFullError,
    RedisUnavailableError,
    TaskConflictError,
    UnknownGraphError,
    UnknownTaskError,
    WaitTimeoutError,
)
from shared.tasks import State, TaskError, TaskResult

__all__ = [
    "Client",
    "InvalidTaskError",
    "LanggraphRqError",
    "QueueFullError",
    "Receipt",
    "RedisUnavailableError",
    "State",
    "TaskConflictError",
    "TaskError",
    "TaskResult",
    "TaskStatus",
    "UnknownGraphError",
    "UnknownTaskError",
    "WaitTimeoutError",
]

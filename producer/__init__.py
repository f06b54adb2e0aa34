"""Submit tasks and read their results. Importing this needs no LangGraph."""

from producer.async_client import AsyncClient
from producer.client import Client
from producer.lookup import Receipt, TaskStatus
from shared.errors import (
    InvalidTaskError,
    LanggraphRqError,
    NotInterruptedError,
    QueueFullError,
    RedisUnavailableError,
    SettingsError,
    TaskConflictError,
    UnknownGraphError,
    UnknownTaskError,
    WaitTimeoutError,
)
from shared.tasks import State, TaskError, TaskResult

__all__ = [
    "AsyncClient",
    "Client",
    "InvalidTaskError",
    "LanggraphRqError",
    "NotInterruptedError",
    "QueueFullError",
    "Receipt",
    "RedisUnavailableError",
    "SettingsError",
    "State",
    "TaskConflictError",
    "TaskError",
    "TaskResult",
    "TaskStatus",
    "UnknownGraphError",
    "UnknownTaskError",
    "WaitTimeoutError",
]

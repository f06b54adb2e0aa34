"""A production runtime for LangGraph agents on Redis and RQ.

This is the whole public API. Its names are loaded at their first use: a service that only submits tasks never imports
LangGraph, and only the guards import LangChain.

Clients: `Client`, `AsyncClient`, what they return (`Receipt`, `TaskStatus`, `TaskResult`, `TaskError`, `State`), the
wire contract (`Task`, `TaskLimits`) and the errors, which share the root `LanggraphRqError`. For graphs:
`guarded_chat_model`, `guarded_embeddings` and `guarded` put model calls and tools behind the fleet's breaker and
budget; they raise `ToolError` and `OutcomeUnknown`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from langgraph_rq.producer.client.async_client import AsyncClient
    from langgraph_rq.producer.client.client import Client
    from langgraph_rq.producer.client.reading.lookup import Receipt, TaskStatus
    from langgraph_rq.shared.errors import (
        AlreadyAnsweredError,
        ForgedResultError,
        InvalidTaskError,
        LanggraphRqError,
        NotContinuableError,
        NotInterruptedError,
        QueueFullError,
        RedisUnavailableError,
        ScriptsMissingError,
        SettingsError,
        TaskConflictError,
        TenantFullError,
        ThreadBusyError,
        ThreadRequestError,
        UnknownGraphError,
        UnknownTaskError,
        WaitTimeoutError,
    )
    from langgraph_rq.shared.results import TaskError, TaskResult
    from langgraph_rq.shared.tasks import State, Task, TaskLimits
    from langgraph_rq.worker.calls.guarded_embeddings import guarded_embeddings
    from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
    from langgraph_rq.worker.calls.tools import guarded
    from langgraph_rq.worker.guards.refusals import OutcomeUnknown, ToolError

_ERRORS = "langgraph_rq.shared.errors"
_RESULTS = "langgraph_rq.shared.results"
_TASKS = "langgraph_rq.shared.tasks"
_HOMES = {
    "AlreadyAnsweredError": _ERRORS,
    "AsyncClient": "langgraph_rq.producer.client.async_client",
    "Client": "langgraph_rq.producer.client.client",
    "InvalidTaskError": _ERRORS,
    "LanggraphRqError": _ERRORS,
    "ForgedResultError": _ERRORS,
    "NotContinuableError": _ERRORS,
    "NotInterruptedError": _ERRORS,
    "OutcomeUnknown": "langgraph_rq.worker.guards.refusals",
    "QueueFullError": _ERRORS,
    "Receipt": "langgraph_rq.producer.client.reading.lookup",
    "RedisUnavailableError": _ERRORS,
    "ScriptsMissingError": _ERRORS,
    "SettingsError": _ERRORS,
    "State": _TASKS,
    "Task": _TASKS,
    "TaskConflictError": _ERRORS,
    "TaskError": _RESULTS,
    "TaskLimits": _TASKS,
    "TaskResult": _RESULTS,
    "TaskStatus": "langgraph_rq.producer.client.reading.lookup",
    "TenantFullError": _ERRORS,
    "ThreadBusyError": _ERRORS,
    "ThreadRequestError": _ERRORS,
    "ToolError": "langgraph_rq.worker.guards.refusals",
    "UnknownGraphError": _ERRORS,
    "UnknownTaskError": _ERRORS,
    "WaitTimeoutError": _ERRORS,
    "guarded": "langgraph_rq.worker.calls.tools",
    "guarded_chat_model": "langgraph_rq.worker.calls.guarded_model",
    "guarded_embeddings": "langgraph_rq.worker.calls.guarded_embeddings",
}

__all__ = [
    "AlreadyAnsweredError",
    "AsyncClient",
    "Client",
    "ForgedResultError",
    "InvalidTaskError",
    "LanggraphRqError",
    "NotContinuableError",
    "NotInterruptedError",
    "OutcomeUnknown",
    "QueueFullError",
    "Receipt",
    "RedisUnavailableError",
    "ScriptsMissingError",
    "SettingsError",
    "State",
    "Task",
    "TaskConflictError",
    "TaskError",
    "TaskLimits",
    "TaskResult",
    "TaskStatus",
    "TenantFullError",
    "ThreadBusyError",
    "ThreadRequestError",
    "ToolError",
    "UnknownGraphError",
    "UnknownTaskError",
    "WaitTimeoutError",
    "guarded",
    "guarded_chat_model",
    "guarded_embeddings",
    "run_task",
]


def __getattr__(name: str) -> Any:
    """Load a public name from where it is defined. Raises ModuleNotFoundError, naming the extra that has it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__):
            raise
        raise ModuleNotFoundError(
            f"{name}: expected the extra `worker`, got: no module {error.name}; pip install 'langgraph-rq[worker]'",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


def run_task(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Name the function that tasks stand under on the queue; a worker of this library never calls it.

    Stock RQ enqueues it by name, `queue.enqueue("langgraph_rq.run_task", {"input": ...})`.

    Raises:
        RuntimeError: always: the job was taken by a stock `rq worker`, which cannot run graphs.
    """
    raise RuntimeError(
        "expected this task to be run by langgraph-worker, got: a stock RQ worker; start langgraph-worker"
    )

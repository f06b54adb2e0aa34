"""The bodies of answers, for OpenAPI. A result is the document in Redis: `TaskResult`."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from langgraph_rq.shared.tasks import State

_ID = "7541897b-8dcb-4539-ad83-7db3f43609a3"


class ReceiptAnswer(BaseModel):
    """A task that is on the queue."""

    task_id: str = Field(examples=[_ID])
    state: State = Field(examples=[State.PENDING])
    created: bool = Field(description="False: it was known already.", examples=[True])
    warnings: list[str] = Field(
        description="Keys of the input that the graph does not take, so that LangGraph ignores them.", examples=[[]]
    )


class StatusAnswer(BaseModel):
    """Where a task is."""

    task_id: str = Field(examples=[_ID])
    state: State = Field(examples=[State.RUNNING])
    attempts: int = Field(description="How often a worker has started it.", examples=[1])
    submitted_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    reason: str | None = Field(
        None, description="What it waits for, or why no live worker can run it yet.", examples=[None]
    )


class StateAnswer(BaseModel):
    """The state in which a task is now."""

    task_id: str = Field(examples=[_ID])
    state: State = Field(examples=[State.CANCELLED])


class TasksAnswer(BaseModel):
    """A page of tasks, the newest first. `next` is where the next page begins; null: this is the last one."""

    tasks: list[StatusAnswer]
    next: int | None


class QueryAnswer(BaseModel):
    """The classic contract: `result` and `error` are texts, one of them or none while it has not ended."""

    request_id: str = Field(examples=[_ID])
    result: str | None = Field(examples=["A lease is a lock that ends by itself."])
    error: str | None = Field(examples=[None])
    metadata: dict[str, Any] = Field(examples=[{"status": "success", "model": "gpt-4o-mini", "run_ms": 812}])


class FoundAnswer(BaseModel):
    """The classic contract: whether a request is known, and the graph's values once it has ended."""

    request_id: str = Field(examples=[_ID])
    found: bool = Field(examples=[True])
    state: Any = Field(examples=[{"answer": "A lease is a lock that ends by itself."}])


class HealthAnswer(BaseModel):
    """The process answers."""

    status: str = Field(examples=["ok"])


class PartAnswer(BaseModel):
    """One thing that must be ready."""

    ready: bool
    detail: str = Field(examples=["2 live workers"])


class ReadyAnswer(BaseModel):
    """Whether tasks that are submitted now can be expected to run."""

    ready: bool
    parts: dict[str, PartAnswer]


class MeterAnswer(BaseModel):
    """What was used of one unit today; `limit` null: none is set. Money is in nano-dollars."""

    used: int
    held: int
    limit: int | None


class BreakerAnswer(BaseModel):
    """One circuit breaker."""

    name: str
    state: str = Field(examples=["closed"])


class UsageAnswer(BaseModel):
    """What was spent today, and how busy the fleet is; with API keys, by the tenant of the key or one of its users."""

    resets_at: datetime
    tokens: MeterAnswer
    cost_nano_usd: MeterAnswer
    open_tasks: int = Field(description="Tasks that have not ended; with API keys, the tenant's.")
    queued_tasks: int | None = Field(
        description="Those of them that wait for a worker at this moment; null with API keys."
    )
    workers: int | None = Field(description="Live ones of the whole fleet; null with API keys.")
    breakers: list[BreakerAnswer] = Field(description="Of the whole fleet; none with API keys: no tenant has its own.")

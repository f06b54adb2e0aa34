"""The fields of a task that are passed on to LangGraph's run, in LangGraph's words."""

import json
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

OURS = frozenset({"task_id", "thread_id", "user_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"})
"""Keys of LangGraph's `configurable` that the worker sets: a task cannot give them another value."""

LANGGRAPHS = ("__", "langgraph_auth_")
"""How keys of `configurable` begin that LangGraph sets, or its server for who is logged in: nodes trust them."""

MOST_EARLIER = 100
"""How many tasks are looked back over that each failed before it wrote a checkpoint of its own."""

_Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]

Nodes = Literal["*"] | tuple[_Text, ...]
"""Nodes by name; "*" for all."""

# A double dash separates the tenant from the id in Redis, so an id cannot hold one.
TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*-?$", max_length=128)]
CheckpointId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)]


class StreamMode(StrEnum):
    """What a task's events tell besides its states, in LangGraph's words; any of them adds where each node starts."""

    CHECKPOINTS = "checkpoints"
    CUSTOM = "custom"
    DEBUG = "debug"
    EVENTS = "events"
    MESSAGES = "messages"
    TASKS = "tasks"
    UPDATES = "updates"
    VALUES = "values"


class Durability(StrEnum):
    """When checkpoints are written: before the next step, during it, or once at the end of the run.

    After a crash a task continues from its last checkpoint, so that with `exit` it runs from its beginning.
    """

    SYNC = "sync"
    ASYNC = "async"
    EXIT = "exit"


class RunConfig(BaseModel):
    """LangGraph's config of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    configurable: dict[str, Any] = Field(default_factory=dict)
    """What nodes read with `config["configurable"]`. The keys of `OURS` are refused."""
    tags: tuple[_Text, ...] = ()
    recursion_limit: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Steps at most. None: LangGraph's default."""
    run_name: _Text | None = None
    """None: the name of the graph."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """As the task's own `metadata`, which wins."""

    @field_validator("configurable")
    @classmethod
    def _leave_ours(cls, configurable: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(key for key in configurable if key in OURS or key.startswith(LANGGRAPHS))
        if taken:
            raise ValueError(f"no key that the worker sets itself ({', '.join(taken)})")
        return configurable


class SendTo(BaseModel):
    """LangGraph's `Send`: run a node with an input of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    node: _Text
    input: Any = None


class GraphCommand(BaseModel):
    """LangGraph's `Command`, given to a thread instead of an input."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    resume: Any = None
    """The answer to the one pending interrupt, or an object of interrupt id -> answer."""
    update: dict[str, Any] | tuple[tuple[str, Any], ...] | None = None
    """What is written to the state, as by a node."""
    goto: _Text | SendTo | tuple[_Text | SendTo, ...] | None = None
    """What runs next."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.resume is None and self.update is None and not self.goto:
            raise ValueError("at least one of resume, update and goto")
        return self


class Continued(BaseModel):
    """The task that this one continues from its last checkpoint; `Client.continue_` and `resume` write it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_id: TaskId
    earlier: tuple[TaskId, ...] = Field(default=(), max_length=MOST_EARLIER)
    """What that task continued itself, newest first: the last checkpoint may be one of theirs."""
    origin: TaskId | None = None
    """The first task of a conversation without `thread_id`: the thread is that task's own."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of which one has written the checkpoint to go on from."""
        return self.task_id, *self.earlier


def question_digest(question: Any) -> str:
    """Tell questions of one interrupt id apart: LangGraph derives the id from the node alone, which may ask anew."""
    return sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()

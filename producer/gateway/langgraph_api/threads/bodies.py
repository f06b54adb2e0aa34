"""What is asked about threads: the bodies of requests."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from langgraph_rq.producer.client.threads import Checkpoint
from langgraph_rq.producer.gateway.langgraph_api.lists import StateKeys
from langgraph_rq.producer.gateway.tasks.bodies import Body
from langgraph_rq.shared.run_fields import GraphCommand
from langgraph_rq.shared.tasks import ThreadId

LONGEST_TTL_MINUTES = 7 * 24 * 60
"""Threads are listed for a week after their last use."""

_KEYS = Literal[
    "thread_id", "created_at", "updated_at", "state_updated_at", "metadata", "status", "config", "values", "interrupts",
    "error"
]  # fmt: skip

_Alias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


def _known_root(path: str) -> str:
    if not re.match(r"(values|metadata|config|interrupts)(?![^.\[])", path):
        raise ValueError("a path that begins with values, metadata, config or interrupts")
    return path


_Path = Annotated[str, AfterValidator(_known_root)]


class StepBody(Body):
    """An update of the state: values, or a command."""

    as_node: str = Field(description="The node that would have returned it; `__input__`: the input.")
    values: Any = None
    command: GraphCommand | None = None


class SuperstepBody(Body):
    """Updates of one superstep."""

    updates: list[StepBody] = Field(min_length=1, max_length=100)


class TtlBody(Body):
    """How long a thread is kept after its last use, or after its last run has ended."""

    ttl: float = Field(ge=0.1, le=LONGEST_TTL_MINUTES, description="Minutes, at most a week.")
    strategy: Literal["delete"] = "delete"

    @property
    def ms(self) -> int:
        """The same in milliseconds."""
        return round(self.ttl * 60_000)


class CreateBody(Body):
    """A thread to be made."""

    thread_id: ThreadId | None = Field(None, description="Your own id; else a random one.")
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    ttl: TtlBody | None = Field(None, description="How long it is kept; null: a week after its last use.")
    supersteps: list[SuperstepBody] | None = Field(
        None, max_length=100, description="Its first states, written by the graph that `metadata.graph_id` names."
    )


class PruneBody(Body):
    """Threads to be pruned."""

    thread_ids: list[ThreadId] = Field(max_length=1_000)
    strategy: Literal["delete", "keep_latest"] = "delete"


class PatchBody(Body):
    """What changes."""

    metadata: dict[str, Any] = Field(
        default_factory=dict, description="These keys replace those that are there; the others stay."
    )
    ttl: TtlBody | None = Field(None, description="How long it is kept from now on; null: as before.")


class CountBody(Body):
    """Which threads."""

    metadata: dict[str, Any] | None = Field(None, description="What their metadata contain.")
    values: dict[str, Any] | None = Field(None, description="What their states contain.")
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class SearchBody(CountBody):
    """Which threads, in what order, and how many."""

    ids: list[ThreadId] | None = Field(None, max_length=1_000)
    limit: int = Field(10, ge=1, le=1_000)
    offset: int = Field(0, ge=0)
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[_KEYS] | None = Field(None, description="These keys only.")
    extract: dict[_Alias, _Path] | None = Field(
        None, max_length=10, description='Paths, such as {"title": "values.messages[0].content"}.'
    )


class CheckpointBody(Body):
    """Names a checkpoint, as states do."""

    thread_id: str | None = None
    checkpoint_id: str | None = None
    checkpoint_ns: str | None = Field(None, description="Of a subgraph: `child:<task id>`.")
    checkpoint_map: dict[str, str] | None = None

    def named(self) -> Checkpoint:
        """Leave out what is not said."""
        named: Checkpoint = self.model_dump(exclude={"thread_id"}, exclude_none=True)  # type: ignore[assignment]
        return named


class StateBody(Body):
    """A checkpoint of the thread."""

    checkpoint: CheckpointBody
    subgraphs: bool = False
    select: StateKeys | None = Field(None, description="These keys only; `values.<key>`: one of the values.")


class UpdateBody(Body):
    """What is written to the state."""

    values: Any = None
    as_node: str | None = Field(None, description="The node that would have returned it.")
    checkpoint: CheckpointBody | None = Field(None, description="Fork from this one.")
    checkpoint_id: str | None = None


class HistoryBody(Body):
    """Which states."""

    limit: int = Field(10, ge=1, le=1_000)
    before: str | dict[str, Any] | None = Field(None, description="A checkpoint, its id, or a config.")
    metadata: dict[str, Any] | None = None
    checkpoint: CheckpointBody | None = Field(None, description="With `checkpoint_ns`: those of a subgraph.")
    select: StateKeys | None = Field(None, description="These keys only; `values.<key>`: one of the values.")

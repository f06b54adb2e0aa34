"""Read the state of threads: a worker that serves the thread's graph answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, Unpack
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from langgraph_rq.producer.client.transport.requests import Requests
from langgraph_rq.shared.errors import InvalidInputError, UnknownGraphError, Violation
from langgraph_rq.shared.graphs.description import GraphDescription
from langgraph_rq.shared.tasks import DEFAULT_GRAPH, ThreadId, thread_key
from langgraph_rq.shared.threads.requests import MOST_THREADS, Operation

MOST_STATES = 1_000

_THREAD_ID = TypeAdapter(ThreadId)


class Checkpoint(TypedDict):
    """Names a checkpoint of a thread, as its states do."""

    checkpoint_id: NotRequired[str]
    checkpoint_ns: NotRequired[str]
    """Of a subgraph: `child:<task id>`."""
    checkpoint_map: NotRequired[dict[str, str]]


class StateFields(TypedDict):
    """What may be said besides the thread's id."""

    graph: NotRequired[str]
    """The graph that reads it; the default one if none is said."""
    checkpoint: NotRequired[Checkpoint | None]
    """The newest one if none is said."""
    subgraphs: NotRequired[bool]
    """With the states of subgraphs, as `tasks[].state`."""


class HistoryFields(TypedDict):
    """What may be said besides the thread's id."""

    graph: NotRequired[str]
    """The graph that reads it; the default one if none is said."""
    limit: NotRequired[int]
    """At most so many, 1 to 1,000; 10 if nothing is said."""
    before: NotRequired[Checkpoint | None]
    """Only those older than this checkpoint."""
    metadata: NotRequired[Mapping[str, Any] | None]
    """Only those whose metadata hold these values."""
    checkpoint: NotRequired[Checkpoint | None]
    """With a `checkpoint_ns`: those of a subgraph."""


class Threads:
    """The threads of one tenant.

    Args:
        requests: Asks for the tenant.
        tenant: Whose threads.
    """

    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant

    async def state(self, thread_id: str, **fields: Unpack[StateFields]) -> dict[str, Any]:
        """Read the state of a thread, now or at a checkpoint, as LangGraph's API writes it.

        Args:
            thread_id: The thread; one without checkpoints has an empty state.
            fields: As `StateFields` says.

        Returns:
            `values`, `next`, `tasks`, `metadata`, `created_at`, `checkpoint`, `parent_checkpoint`, `interrupts`.

        Raises:
            UnknownGraphError: no live worker serves the graph.
            InvalidInputError: the checkpoint is none that the graph knows, or the workers keep none.
            ThreadRequestError: no worker answered in time, or the graph failed; ask again.
            RedisUnavailableError: Redis cannot be reached.
        """
        found: dict[str, Any] = await self._ask(Operation.STATE, thread_id, fields)
        return found

    async def states(self, thread_ids: Sequence[str], *, graph: str = DEFAULT_GRAPH) -> dict[str, dict[str, Any]]:
        """Read the newest states of up to 100 threads; each is written as `state` writes it. Raises as `state`."""
        threads = {thread_id: self._key(thread_id) for thread_id in thread_ids}
        if not threads:
            return {}
        found = await self._ask(Operation.STATES, thread_ids[0], {"graph": graph, "threads": threads})
        return dict(zip(threads, found, strict=True))

    async def update(
        self,
        thread_id: str,
        values: Any,
        *,
        graph: str = DEFAULT_GRAPH,
        as_node: str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, Any]:
        """Write to the state of a thread that no task uses, as if one of its nodes had.

        Args:
            thread_id: The thread.
            values: What the node would return.
            graph: The graph that writes it.
            as_node: The node; None: LangGraph chooses it.
            checkpoint: Fork from this one; None: go on from the newest.

        Returns:
            The new checkpoint, as `checkpoint` and `checkpoint_id`.

        Raises:
            ThreadBusyError: a task of the thread has not ended, or one began meanwhile.
            InvalidInputError: the graph takes no such values, or has no such node.

        Others as `state`.
        """
        supersteps = [[{"values": values, "as_node": as_node}]]
        arguments = {"graph": graph, "supersteps": supersteps, "checkpoint": checkpoint}
        found: dict[str, Any] = await self._ask(Operation.UPDATE, thread_id, arguments)
        return found

    async def update_in_steps(
        self, thread_id: str, supersteps: Sequence[Sequence[Mapping[str, Any]]], *, graph: str = DEFAULT_GRAPH
    ) -> dict[str, Any]:
        """Write to the state of a thread as several supersteps would have, each in a checkpoint of its own.

        Args:
            thread_id: The thread.
            supersteps: Of each the updates, with `as_node` and `values` or `command` {update, goto, resume}.
            graph: The graph that writes them.

        Returns:
            The last checkpoint. Raises as `update`; supersteps before one that is refused stay.
        """
        arguments = {"graph": graph, "supersteps": supersteps}
        found: dict[str, Any] = await self._ask(Operation.UPDATE, thread_id, arguments)
        return found

    async def copy(self, thread_id: str, target_id: str | None = None, *, graph: str = DEFAULT_GRAPH) -> str:
        """Copy the checkpoints of a thread that no task uses, and list the copy with its metadata, without its runs.

        Args:
            thread_id: The thread.
            target_id: The copy, which must have no checkpoints; None: a random id.
            graph: A graph that has used it.

        Returns:
            The id of the copy.

        Raises:
            ThreadBusyError: a task of the thread has not ended, or one began meanwhile; nothing is left of the copy.
            InvalidInputError: the copy has checkpoints, or the workers keep none.

        Others as `state`.
        """
        target = target_id or str(uuid4())
        await self._ask(Operation.COPY, thread_id, {"graph": graph, "target": self._key(target)})
        return target

    async def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: Literal["delete", "keep_latest"] = "delete",
        graph: str = DEFAULT_GRAPH,
    ) -> list[str]:
        """Delete the older checkpoints of threads that no task uses, or all.

        Args:
            thread_ids: The threads.
            strategy: `keep_latest` keeps the newest checkpoint, and what it needs; `delete` none.
            graph: A graph that has used them.

        Returns:
            The threads that were pruned: all but those of which a task has not ended. Raises as `state`.
        """
        if strategy not in ("delete", "keep_latest"):
            raise InvalidInputError(Violation("strategy", "delete or keep_latest", repr(strategy)[:60]))
        pruned: list[str] = []
        for start in range(0, len(thread_ids), MOST_THREADS):
            threads = {thread_id: self._key(thread_id) for thread_id in thread_ids[start : start + MOST_THREADS]}
            arguments = {"graph": graph, "threads": threads, "strategy": strategy}
            pruned += await self._ask(Operation.PRUNE, thread_ids[start], arguments)
        return pruned

    async def describe_graph(self, graph: str = DEFAULT_GRAPH) -> GraphDescription:
        """Read what workers have announced of a graph: `drawings`, `schemas` and those of its `subgraphs`.

        Raises:
            UnknownGraphError: no worker has described it in the last day.
            RedisUnavailableError: Redis cannot be reached.
        """
        found = await self._requests.description(graph)
        if found is None:
            raise UnknownGraphError(graph, "not described")
        return found

    async def storage(self, thread_id: str, *, graph: str = DEFAULT_GRAPH) -> dict[str, Any]:
        """Measure the bytes that the checkpoints of a thread take in Redis.

        Returns:
            `total_bytes`, and of `checkpoints`, `channel_values` and `pending_writes` each `count` and `bytes`;
            `channel_values.by_channel` has `versions` and `bytes` of each channel whose values are large. Raises as
            `state`.
        """
        found: dict[str, Any] = await self._ask(Operation.STORAGE, thread_id, {"graph": graph})
        return found

    async def expire(self, thread_id: str, *, graph: str = DEFAULT_GRAPH) -> None:
        """Let the checkpoints of a thread go when what is listed of it goes, if that has a TTL of its own.

        Nothing to call after a task: its end does the same. Raises as `state`.
        """
        await self._ask(Operation.EXPIRE, thread_id, {"graph": graph})

    async def delete(self, thread_id: str, *, graph: str = DEFAULT_GRAPH, force: bool = False) -> None:
        """Delete the checkpoints of a thread.

        Args:
            thread_id: The thread.
            graph: A graph that has used it.
            force: Also while tasks of it have not ended, which the caller has cancelled: they write nothing more.

        Raises:
            ThreadBusyError: a task of the thread has not ended.

        Others as `state`.
        """
        await self._ask(Operation.DELETE, thread_id, {"graph": graph, "force": force})

    async def history(self, thread_id: str, **fields: Unpack[HistoryFields]) -> list[dict[str, Any]]:
        """Read the states of a thread, the newest first; each is written as `state` writes it.

        Args:
            thread_id: The thread.
            fields: As `HistoryFields` says.

        Raises as `state`.
        """
        limit = fields.get("limit", 10)
        if not 1 <= limit <= MOST_STATES:
            raise InvalidInputError(Violation("limit", f"1 to {MOST_STATES}", str(limit)))
        found: list[dict[str, Any]] = await self._ask(Operation.HISTORY, thread_id, fields)
        return found

    async def _ask(self, operation: Operation, thread_id: str, fields: Mapping[str, Any]) -> Any:
        self._key(thread_id)
        arguments = dict(fields)
        graph = str(arguments.pop("graph", DEFAULT_GRAPH))
        return await self._requests.ask(operation, thread_id, graph, arguments)

    def _key(self, thread_id: str) -> str:
        try:
            return thread_key(_THREAD_ID.validate_python(thread_id), self._tenant)
        except ValidationError as error:
            raise InvalidInputError(Violation("thread_id", error.errors()[0]["msg"], repr(thread_id)[:60])) from None

"""A checkpointer that a project brings along, used in place of the worker's.

It must be durable and async: checkpoints in the memory of a process are lost with it, and other workers cannot continue
from them. The project keeps what it writes: no TTL, no serializer and no `LGRQ_STATE_KEY` of the worker applies. A
worker that has lost its tasks writes nothing any more, but a write that is already on its way is not fenced.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, ChannelVersions, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.guards.task_guard import current_task, note_saved
from langgraph_rq.worker.state.later_ids import followed
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.saver.thread_saver import TASK_ID

_log = get_logger(__name__)

_PROBE: RunnableConfig = {"configurable": {"thread_id": "langgraph-rq-probe", "checkpoint_ns": ""}}

_SHORT_S = 3_600.0
"""Checkpoints that are wanted for less than this time after their task's end are deleted at its end."""


async def refusal(saver: BaseCheckpointSaver[Any]) -> str | None:
    """Return why a checkpointer cannot be used; None: it can.

    Raises:
        Exception: what it raises when it is read, because its database is away or not set up.
    """
    if isinstance(saver, InMemorySaver):
        return "it is in the memory of one process"
    try:
        await saver.aget_tuple(_PROBE)
    except NotImplementedError:
        return "it is not async"
    return None


class ProjectCheckpointer(BaseCheckpointSaver[Any]):
    """What the worker needs of a checkpointer, before the methods of the project's own class. Made by `adopted`."""

    check_fence: Callable[[], None]

    async def finish(self, _timeout_s: float) -> None:
        """Do nothing: the project's own class has its own connections."""

    async def begin(self, thread_id: str) -> bool:
        """Begin a task on a thread, which is not fenced here; return whether the thread has checkpoints."""
        newest: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        return followed(await self.aget_tuple(newest)) is not None

    async def expire_thread(self, thread_id: str, ttl_s: float = 0.0) -> int:
        """Delete a thread that is wanted for a short time only; any other is kept, as the project knows no TTL."""
        if ttl_s < _SHORT_S:
            try:
                await self.adelete_thread(thread_id)
            except Exception as error:  # its task has ended
                _log.warning("checkpoints.not_expired", error=f"{type(error).__name__}: {error}")
        return 0

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Write a checkpoint, with the id of its task, unless this run has lost it."""
        self.check_fence()
        saved = await super().aput(config, checkpoint, _stamped(metadata, config), new_versions)
        configurable = config["configurable"]
        note_saved(configurable["thread_id"], configurable.get("checkpoint_ns", ""), checkpoint["id"], metadata)
        return saved

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Write a node's pending writes, unless this run has lost its task."""
        self.check_fence()
        await super().aput_writes(config, writes, task_id, task_path)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `aput`, for a subgraph that a sync node invokes."""
        self.check_fence()
        return super().put(config, checkpoint, _stamped(metadata, config), new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `aput_writes`."""
        self.check_fence()
        super().put_writes(config, writes, task_id, task_path)


def adopted(saver: BaseCheckpointSaver[Any], is_fenced: Callable[[], bool]) -> ProjectCheckpointer:
    """Return a checkpointer of the project with what the worker needs, which shares its connections.

    Args:
        saver: Stays as it is.
        is_fenced: Whether this worker has lost its lease; then nothing is written.
    """

    def check_fence() -> None:
        run = current_task.get()
        if is_fenced() or (run is not None and run.is_over):
            raise CheckpointFencedError("expected a run that still owns its task, got: one that has ended")

    made: Any = copy.copy(saver)
    # A subclass, so that every method of its class, known here or not, is still found.
    made.__class__ = type(type(saver).__name__, (ProjectCheckpointer, type(saver)), {})
    made.check_fence = check_fence
    return made  # type: ignore[no-any-return]


def _stamped(metadata: CheckpointMetadata, config: RunnableConfig) -> CheckpointMetadata:
    stamped: Any = {**metadata}
    if TASK_ID in config["configurable"]:
        stamped[TASK_ID] = config["configurable"][TASK_ID]
    return stamped  # type: ignore[no-any-return]

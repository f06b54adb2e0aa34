"""The kinds of checkpointers that a worker may have."""

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from langgraph_rq.worker.state.project_checkpointer import ProjectCheckpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver

if TYPE_CHECKING:
    from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
    from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer as StackCheckpointer

    Checkpointer: TypeAlias = ThreadSaver | StackCheckpointer | PostgresSaver | ProjectCheckpointer
else:
    Checkpointer = ThreadSaver | ProjectCheckpointer


@runtime_checkable
class RollsBack(Protocol):
    """A checkpointer that knows what each task has written."""

    async def roll_back(self, thread_id: str, task_id: str) -> None:
        """Remove what the last task of a thread has written to it; again, it removes nothing.

        Raises:
            ThreadChangedError: the thread was written to meanwhile, again and again.
            CheckpointFencedError: a later task has begun on the thread.
        """

"""The kinds of checkpointers that a worker may have."""

from typing import TYPE_CHECKING, TypeAlias

from langgraph_rq.worker.state.project_checkpointer import ProjectCheckpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver

if TYPE_CHECKING:
    from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
    from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer as StackCheckpointer

    Checkpointer: TypeAlias = ThreadSaver | StackCheckpointer | PostgresSaver | ProjectCheckpointer
else:
    Checkpointer = ThreadSaver | ProjectCheckpointer

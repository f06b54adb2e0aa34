"""What tasks begin on, as it was read: the worker looks at it before a run, and LangGraph asks for it at its start.

To build the values of a long thread twice would double what reading it costs.
"""

from collections.abc import Callable

from langgraph.checkpoint.base import CheckpointTuple

from langgraph_rq.shared.connections.kept_connection import Argument


class Lent:
    """Newest checkpoints of threads, of which each is handed on once; the lender does not look at its values any more.

    Args:
        token_of: The fencing token of the running task on a thread, empty for none: others get nothing.
    """

    def __init__(self, token_of: Callable[[str], Argument]) -> None:
        self._token_of = token_of
        self._found: dict[str, tuple[Argument, CheckpointTuple]] = {}

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._found)

    def lend(self, thread: str, found: CheckpointTuple) -> None:
        """Keep a checkpoint until it is taken or forgotten, which the lender does at the end of the run."""
        self._found[thread] = self._token_of(thread), found

    def take(self, thread: str) -> CheckpointTuple | None:
        """Return what the running task has been lent, once."""
        token, found = self._found.get(thread, ("", None))
        if found is None or token != self._token_of(thread):
            return None
        del self._found[thread]
        return found

    def forget(self, thread: str) -> None:
        """Forget what was lent: the run has ended, or the thread is written to."""
        self._found.pop(thread, None)

"""The position of a call in a task: the same when its node runs again after a crash or a wait.

LangGraph names each run of a node after the checkpoint from which it started, so an attempt that goes on from that
checkpoint runs the node under the same name, and one from any other checkpoint under another. Within the node a call
is known by what it asks, and equal calls are counted: the order of calls in parallel may change.
"""

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush

from langgraph.runtime import get_runtime


@dataclass(frozen=True, slots=True)
class NodeRun:
    """The run of a node that this context belongs to.

    Args:
        name: The node and its LangGraph task, below those of the graphs around it.
        attempt: 1, or more if LangGraph's retry policy runs the node again.
    """

    name: str
    attempt: int

    @classmethod
    def current(cls) -> "NodeRun | None":
        """Return the run of a node in this context; None: there is none."""
        try:
            runtime = get_runtime()
        except (KeyError, RuntimeError):
            return None
        execution = runtime.execution_info if runtime else None
        if execution is None or not execution.checkpoint_ns:
            return None
        return cls(execution.checkpoint_ns, execution.node_attempt)


class Positions:
    """Counts the equal calls of each run of a node. Safe for the threads of sync nodes."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[object, ...]] = Counter()
        self._freed: dict[tuple[object, ...], list[int]] = {}
        self._lock = threading.Lock()

    def next(self, *call: object) -> int:
        """Return how many equal calls came before, without those that were freed."""
        with self._lock:
            if freed := self._freed.get(call):
                return heappop(freed)
            number = self._counts[call]
            self._counts[call] += 1
        return number

    def free(self, number: int, *call: object) -> None:
        """Let the next equal call have the number of one that failed: it is the same call, tried again."""
        with self._lock:
            heappush(self._freed.setdefault(call, []), number)

    def clear(self) -> None:
        """Forget the calls of nodes whose checkpoint is saved."""
        with self._lock:
            self._counts.clear()
            self._freed.clear()


def digest(*parts: object) -> str:
    """Return 64 hexadecimal digits that stand for `parts`, in their order."""
    hashed = hashlib.sha256()
    for part in parts:
        data = str(part).encode(errors="surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()

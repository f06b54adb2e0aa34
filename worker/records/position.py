"""The position of a call in a task: the same when its node runs again after a crash or a wait.

LangGraph names each run of a node after the checkpoint from which it started, so an attempt that goes on from that
checkpoint runs the node under the same name, and one from any other checkpoint under another. Within the node a call
is known by what it asks, and equal calls are counted: the order of calls in parallel may change.
"""

import hashlib
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from heapq import heappop, heappush

from langgraph.config import get_config
from langgraph.runtime import get_runtime


@dataclass(frozen=True, slots=True)
class NodeRun:
    """The run of a node that this context belongs to.

    Args:
        name: The node and its LangGraph task, below those of the graphs around it.
        attempt: 1, or more if LangGraph's retry policy runs the node again.
        began_at: Id of the root graph's checkpoint on which it began: the next one, whose id is greater, is behind it.
            Empty: unknown.
    """

    name: str
    attempt: int
    began_at: str = ""

    @classmethod
    def current(cls) -> "NodeRun | None":
        """Return the run of a node in this context; None: there is none."""
        try:
            runtime, configurable = get_runtime(), get_config()["configurable"]
        except (KeyError, RuntimeError):
            return None
        execution = runtime.execution_info if runtime else None
        if execution is None or not execution.checkpoint_ns:
            return None
        began_at = (configurable.get("checkpoint_map") or {}).get("", "")
        return cls(execution.checkpoint_ns, execution.node_attempt, str(began_at))


class Positions:
    """Counts the equal calls of each run of a node. Safe for the threads of sync nodes."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[tuple[object, ...]]] = defaultdict(Counter)
        self._freed: defaultdict[str, dict[tuple[object, ...], list[int]]] = defaultdict(dict)
        self._lock = threading.Lock()

    def next(self, began_at: str, *call: object) -> int:
        """Return how many equal calls came before, without those that were freed."""
        with self._lock:
            if freed := self._freed[began_at].get(call):
                return heappop(freed)
            number = self._counts[began_at][call]
            self._counts[began_at][call] += 1
        return number

    def free(self, number: int, began_at: str, *call: object) -> None:
        """Let the next equal call have the number of one that failed: it is the same call, tried again."""
        with self._lock:
            heappush(self._freed[began_at].setdefault(call, []), number)

    def forget(self, saved: str) -> None:
        """Forget the calls of nodes that began before the checkpoint `saved`, which is behind them."""
        with self._lock:
            for found in (self._counts, self._freed):
                for began_at in [one for one in found if one < saved]:
                    del found[began_at]


def digest(*parts: object) -> str:
    """Return 64 hexadecimal digits that stand for `parts`, in their order."""
    hashed = hashlib.sha256()
    for part in parts:
        data = str(part).encode(errors="surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()

"""The answer journal: what models have answered since a task's last checkpoint.

A node that runs again after a crash or a wait gets the recorded answer to each request that it repeats, and pays
nothing for it. A request that differs in any way is made. After a failure of the graph all requests are made again,
because the answer may have been its cause.

Only the attempt that owns the task records answers. It forgets them when the checkpoint behind their node is saved.

Keys:
    agent:journal:<id>     hash  digest of a call's position -> answer, as checkpoints are written; until a minute after
        the task's deadline
"""

from collections.abc import Mapping
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.worker.records.codec import Codec, seal, unseal
from langgraph_rq.worker.records.position import NodeRun, Positions, digest

MOST_ANSWERS = 1_000
MOST_BYTES = 4_000_000
"""Of all answers of a task; further ones are not recorded."""
_GRACE_MS = 60_000


def journal_key(task_id: str) -> str:
    """Return the key of a task's journal."""
    return f"agent:journal:{task_id}"


class AnswerJournal:
    """The answers of one attempt at a task, and those that earlier attempts have left.

    Args:
        task_id, epoch, worker: The attempt.
        failures: Attempts that failed before; their answers are not repeated.
        codec: Writes and reads answers.
    """

    def __init__(self, task_id: str, epoch: int, worker: str, failures: int, codec: Codec) -> None:
        self._task_id = task_id
        self._epoch = epoch
        self._worker = worker
        self._failures = failures
        self._codec = codec
        self._found: dict[str, bytes] = {}
        self._began_at: dict[str, str] = {}
        self._kept: dict[str, int] = {}
        self._positions = Positions()

    def read_call(self) -> Call[Mapping[str, bytes]]:
        """Read what earlier attempts have left, for `open`."""
        return Call(load_script("worker/records/scripts/read"), [journal_key(self._task_id)], [MOST_ANSWERS], _pairs)

    def open(self, found: Mapping[str, bytes]) -> None:
        """Answer calls from what earlier attempts have left."""
        self._found = dict(found)
        self._kept = {position: len(text) for position, text in found.items()}

    def position(self, request: str) -> str | None:
        """Return the position of the next call with this request (a digest); None: it is made outside of a node."""
        node = NodeRun.current()
        if node is None:
            return None
        number = self._positions.next(node.began_at, node.name, request)
        position = digest(node.name, self._failures, request, number)
        self._began_at[position] = node.began_at
        return position

    def began_at(self, position: str) -> str:
        """Return the checkpoint on which the node of a call began; empty: the one behind it is saved."""
        return self._began_at.get(position, "")

    def find(self, position: str) -> Any:
        """Return the recorded answer; None: there is none.

        Raises:
            Exception: what was recorded cannot be read.
        """
        text = self._found.get(position)
        return None if text is None else unseal(self._codec, self._place(position), text)

    def keep_call(self, position: str, answer: Any) -> Call[bool] | None:
        """Record an answer, if this attempt still owns the task; None: the journal is full.

        Raises:
            Exception: the answer holds a type that checkpoints cannot hold.
        """
        text = seal(self._codec, self._place(position), answer)
        if sum(self._kept.values()) + len(text) > MOST_BYTES or len(self._kept) >= MOST_ANSWERS:
            return None
        self._kept[position] = len(text)
        return Call(
            load_script("worker/records/scripts/keep"),
            [task_hash(self._task_id), journal_key(self._task_id)],
            [self._epoch, self._worker, position, text, _GRACE_MS],
            bool,
        )

    def forget_call(self, saved: str) -> Call[int] | None:
        """Forget the answers to nodes behind which the checkpoint `saved` is. None: there are none."""
        for position in [one for one, began_at in [*self._began_at.items()] if began_at < saved]:
            del self._began_at[position]
        positions = {position for position in [*self._kept] if position not in self._began_at}
        for position in positions:
            del self._kept[position]
            self._found.pop(position, None)
        self._positions.forget(saved)
        return forget_call(journal_key(self._task_id), positions) if positions else None

    def _place(self, position: str) -> str:
        return f"journal:{self._task_id}:{position}"


def forget_call(key: str, fields: "set[str]") -> Call[int]:
    """Delete fields of a hash; the reply is how many there were."""
    return Call(load_script("worker/records/scripts/forget"), [key], sorted(fields), int)


def _pairs(reply: list[bytes]) -> Mapping[str, bytes]:
    fields = [field.decode(errors="replace") for field in reply[::2]]
    return dict(zip(fields, reply[1::2], strict=True))

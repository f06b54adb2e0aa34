"""What is listed of threads: made with them, and kept by the queue's scripts as their runs come and end.

Keys:
    agent:thread_row:<thread>   hash  when it was made and used, its newest run, its metadata; a week after its last use
    agent:thread_runs:<thread>  zset  id -> when the run was accepted (ms), of the newest 1,000; likewise
    agent:threads:<tenant>      zset  thread -> when it was used (ms); likewise
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.keys import LAST_CLAIM
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State

MADE, KNOWN = 1, 0
DESCRIBED, OTHERS_MEANWHILE, NO_THREAD = 1, 0, -1


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """One thread."""

    created: datetime
    updated: datetime
    changed: datetime
    """When its state changed last."""
    graph: str | None
    run: str | None
    """The newest run, by its id in Redis."""
    ended: State | None
    """How the run ended that ended last."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_text: str = ""
    """The same as it is kept."""

    @classmethod
    def read(cls, fields: Mapping[bytes, bytes]) -> "ThreadRow | None":
        """Read the hash; None: there is no such thread."""
        if b"created" not in fields:
            return None
        texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
        created = texts["created"]
        metadata: Any = {}
        try:
            metadata = read_json(texts.get("metadata", "{}"))
            ended = State(texts["ended"]) if "ended" in texts else None
        except ValueError:
            ended = None
        return cls(
            created=_instant(created),
            updated=_instant(texts.get("updated", created)),
            changed=_instant(texts.get("changed", created)),
            graph=texts.get("graph"),
            run=texts.get("run"),
            ended=ended,
            metadata=metadata if isinstance(metadata, dict) else {},
            metadata_text=texts.get("metadata", ""),
        )


def create_call(thread: str, tenant: str, metadata: str, now_ms: int | str = "") -> Call[int]:
    """Make a thread; answers MADE or KNOWN. `thread` is its id in Redis, `metadata` JSON; `now_ms` in tests."""
    script = load_script("shared/threads/scripts/create_thread")
    return Call(script, [row_key(thread)], [thread, tenant, metadata, now_ms], int)


def describe_call(thread: str, tenant: str, before: str, after: str, now_ms: int | str = "") -> Call[int]:
    """Replace the metadata `before` by those `after`; answers DESCRIBED, OTHERS_MEANWHILE or NO_THREAD."""
    script = load_script("shared/threads/scripts/describe_thread")
    return Call(script, [row_key(thread)], [thread, tenant, before, after, now_ms], int)


def hold_call(thread: str, now_ms: int | str = "", *, by_force: bool = False) -> Call[int]:
    """Begin an operation that writes to a thread; answers its fencing token, 0 while a task of it has not ended.

    `by_force` it begins all the same, and what such a task writes from then on is refused.
    """
    return Call(load_script("shared/threads/scripts/hold"), [LAST_CLAIM], [thread, int(by_force), now_ms], int)


def change_call(thread: str, tenant: str, state: State, now_ms: int | str = "") -> Call[int]:
    """Note that a thread's state has changed; INTERRUPTED: nodes are to run next, else SUCCESS."""
    script = load_script("shared/threads/scripts/change_thread")
    return Call(script, [], [thread, tenant, state, now_ms], int)


def row_key(thread: str) -> str:
    """Return the hash of a thread."""
    return f"agent:thread_row:{thread}"


def runs_key(thread: str) -> str:
    """Return the runs of a thread."""
    return f"agent:thread_runs:{thread}"


def index_key(tenant: str) -> str:
    """Return the threads of a tenant."""
    return f"agent:threads:{tenant}"


def _instant(ms: str) -> datetime:
    return datetime.fromtimestamp(whole_number(ms.encode(), 0) / 1000, UTC)

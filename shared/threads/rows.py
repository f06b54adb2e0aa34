"""What is listed of threads: made with them, and kept by the queue's scripts as their runs come and end.

Keys:
    agent:thread_row:<thread>   hash  when it was made and used, its newest run, its metadata, its TTL; a week after its
                                      last use, or its TTL
    agent:thread_late:<thread>  zset  id -> when it is to start (ms), of tasks that enter the thread then; until they
                                      have, 8 days after that time at most
    agent:threads:<tenant>      zset  thread -> when it was used (ms); a week after the last use of any
    agent:threads_to_keep       set   threads with a TTL of which a run was accepted, for workers; a minute
    agent:wake:thread:<thread>  stream  wakes readers of the thread's stream, who make it; a minute
    agent:threads_by:<tenant>:<term>  set  threads of a term (terms.py), and some that were; 10 days after the last run
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.keys import LAST_CLAIM, question_key
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.threads.terms import terms_of

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
    ttl_ms: int | None = None
    """How long it is kept after its last use, if its maker has said so."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metadata_text: str = ""
    """The same as it is kept."""

    @property
    def is_used(self) -> bool:
        """Whether it may have a state: a run has used it, or it was written to."""
        return self.run is not None or self.ended is not None

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
            ttl_ms=whole_number(fields.get(b"ttl", b""), 0) or None,
            metadata=metadata if isinstance(metadata, dict) else {},
            metadata_text=texts.get("metadata", ""),
        )


@dataclass(frozen=True, slots=True)
class ListedThread:
    """One thread, and what is open of it."""

    row: ThreadRow
    is_busy: bool
    """Whether a task of it has not ended."""
    is_asking: bool
    """Whether it shows a question."""


def create_call(
    thread: str, tenant: str, metadata: str, graph: str = "", ttl_ms: int | None = None, now_ms: int | str = ""
) -> Call[int]:
    """Make a thread; answers MADE or KNOWN.

    Args:
        thread: Its id in Redis.
        tenant: Whose it is.
        metadata: JSON.
        graph: The graph that is to write its first state; empty: its first run names one.
        ttl_ms: How long it is kept after its last use; None: as any other.
        now_ms: In tests.
    """
    script = load_script("shared/threads/scripts/create_thread")
    keys, terms = [row_key(thread)], _terms(metadata)
    return Call(script, keys, [thread, tenant, metadata, graph, ttl_ms or "", terms, now_ms], int)


def copy_call(thread: str, copy: str, tenant: str, now_ms: int | str = "") -> Call[int]:
    """List a copy of a thread; answers MADE or KNOWN. Both by their ids in Redis; `now_ms` in tests."""
    script = load_script("shared/threads/scripts/copy_thread")
    return Call(script, [row_key(thread), row_key(copy)], [copy, tenant, now_ms], int)


def describe_call(
    thread: str, tenant: str, before: str, after: str, ttl_ms: int | None = None, now_ms: int | str = ""
) -> Call[int]:
    """Replace the metadata `before` by those `after`; answers DESCRIBED, OTHERS_MEANWHILE or NO_THREAD.

    `ttl_ms` is how long the thread is kept after its last use; None: as before.
    """
    script = load_script("shared/threads/scripts/describe_thread")
    keys, terms = [row_key(thread)], _terms(after)
    return Call(script, keys, [thread, tenant, before, after, ttl_ms or "", terms, now_ms], int)


def hold_call(thread: str, now_ms: int | str = "", *, by_force: bool = False) -> Call[int]:
    """Begin an operation that writes to a thread; answers its fencing token, 0 while a task of it has not ended.

    `by_force` it begins all the same, and what such a task writes from then on is refused.
    """
    return Call(load_script("shared/threads/scripts/hold"), [LAST_CLAIM], [thread, int(by_force), now_ms], int)


def change_call(thread: str, tenant: str, state: State, graph: str, now_ms: int | str = "") -> Call[int]:
    """Note that a graph has changed a thread's state; INTERRUPTED: nodes are to run next, else SUCCESS."""
    script = load_script("shared/threads/scripts/change_thread")
    return Call(script, [], [thread, tenant, state, graph, now_ms], int)


def expire_call(thread: str) -> Call[int]:
    """Let the checkpoints of a thread at rest go with its row, if it has a TTL of its own; workers may call this."""
    return Call(load_script("shared/threads/scripts/expire_thread"), [], [thread], int)


def read_call(thread: str) -> Call[ListedThread | None]:
    """Read what is listed of a thread; answers None if there is no such thread."""
    keys = [row_key(thread), question_key(thread)]
    return Call(load_script("shared/threads/scripts/read_thread"), keys, [thread], _read_listed)


def row_key(thread: str) -> str:
    """Return the hash of a thread."""
    return f"agent:thread_row:{thread}"


def runs_key(thread: str) -> str:
    """Return the runs of a thread; see shared/queue/records.py."""
    return f"agent:thread_runs:{thread}"


def wake_key(thread: str) -> str:
    """Return the stream that has an entry for each run of a thread that is accepted, while it has readers."""
    return f"agent:wake:thread:{thread}"


def index_key(tenant: str) -> str:
    """Return the threads of a tenant."""
    return f"agent:threads:{tenant}"


def _read_listed(reply: tuple[list[bytes], int, int]) -> ListedThread | None:
    fields, is_busy, is_asking = reply
    row = ThreadRow.read(dict(zip(fields[::2], fields[1::2], strict=True)))
    return ListedThread(row, is_busy == 1, is_asking == 1) if row else None


def _terms(metadata: str) -> str:
    return "\n".join(terms_of(read_json(metadata)))


def _instant(ms: str) -> datetime:
    return datetime.fromtimestamp(whole_number(ms.encode(), 0) / 1000, UTC)

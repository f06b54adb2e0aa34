"""Pages of a tenant's threads, the last used first, by the terms under which they are listed (terms.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, load_script


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: when a thread was used (ms), and the thread."""

    used_ms: str
    thread: str


FIRST = Place("", "")
"""Before the first page."""


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """Threads that may match, by their ids in Redis."""

    threads: tuple[str, ...]
    after: Place | None
    """Where the next page begins; None: there is none. A page may be empty and not the last."""


def find_threads_call(tenant: str, groups: Sequence[Sequence[str]], after: Place, limit: int) -> Call[ThreadPage]:
    """List a page of the threads that have a term of each group. A thread that is used meanwhile may come twice."""
    script = load_script("shared/threads/scripts/find_threads")
    args: list[Argument] = [tenant, limit, after.used_ms, after.thread, *map("\n".join, groups)]
    return Call(script, [], args, _read_page)


def _read_page(reply: Sequence[Any]) -> ThreadPage:
    used_ms, thread, *threads = (one.decode(errors="replace") for one in reply)
    return ThreadPage(tuple(threads), Place(used_ms, thread) if used_ms else None)

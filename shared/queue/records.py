"""Records of runs: what lists of tasks show of them, as functions/records/records.lua keeps it.

Keys:
    agent:run_count:<tenant>       string  number of the newest run; 8 days
    agent:runs:<tenant>:<block>    hash    512 runs in a row: ids, threads, the records of those without thread; a day
                                   (and an hour) after its last change, or until there are `LGRQ_RECORDS` newer runs
    agent:thread_runs:<thread>     list    the newest 1,000 runs of a thread, the newest first: id, first line of the
                                   record, what the client said; as long as the thread is listed
    agent:ids:<tenant>             zset    instants until which ids are remembered (ms); the idempotency window
    agent:ids:<tenant>:<instant>:<slot>  hash  id -> state, digest and number of an ended task; the idempotency window
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.keys import events_key, graph_name, graph_part, result_key, task_hash
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State

MOST_READ = 100
"""Runs that one call of `read_runs_call` or `list_runs_call` reads at most."""
LONGEST_ABOUT = 16_000
"""Bytes of what a client said about a run."""
_COMPRESSED_FROM = 160
"""Bytes from which on compressing it pays."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run: a task that is open, or has ended."""

    key: str
    """The task's id in Redis."""
    thread: str | None
    """Its thread as Redis knows it; None: it has one of its own."""
    state: State
    graph: str = ""
    """Empty, as all that follows: nothing but the id is remembered."""
    user_id: str | None = None
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int = 0
    error_type: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """What its client said: `metadata`, and what another API keeps beside it."""


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, the newest first."""

    runs: tuple[RunRecord, ...]
    before: int
    """Where the next page begins; 0: there is none. A page may be empty and not the last."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are listed."""

    state: State | None = None
    graph: str | None = None
    user_id: str | None = None
    """An empty one: that of tasks without user."""
    since: datetime | None = None
    until: datetime | None = None
    """Accepted between these instants, both included."""


def list_runs_call(
    tenant: str, only: RunFilter, *, most_records: int, before: int = 0, limit: int = MOST_READ
) -> Call[RunPage]:
    """List a page of a tenant's runs, of those whose records are kept.

    Args:
        tenant: The tenant.
        only: Which runs.
        most_records: `QueueTimes.records`.
        before: Where an earlier page said that this one begins; 0: with the newest.
        limit: Runs at most.
    """
    return Call(
        load_script("shared/queue/scripts/records/list_runs"),
        [],
        [
            tenant,
            before,
            min(limit, MOST_READ),
            only.state or "",
            graph_part(only.graph) if only.graph else "",
            "" if only.user_id is None else f"user:{only.user_id}",
            _ms(only.since),
            _ms(only.until),
            most_records,
        ],
        _read_page,
    )


def read_runs_call(keys: Sequence[str], thread: str = "", now_ms: int | str = "") -> Call[list[RunRecord | None]]:
    """Read up to `MOST_READ` runs by their ids in Redis; None for each that is unknown, or is none of `thread`."""
    script = load_script("shared/queue/scripts/records/read_runs")
    return Call(script, [], [thread, now_ms, *keys], lambda reply: _read_each(keys, reply))


def list_thread_runs_call(thread: str, start: int = 0, limit: int = MOST_READ) -> Call[list[RunRecord | None]]:
    """List a page of a thread's newest 1,000 runs, the newest first, without the first `start` of them.

    There are more only if the page has `limit` entries; None stands for a run of which nothing is known any more.
    """
    script = load_script("shared/queue/scripts/records/list_thread_runs")
    return Call(script, [], [thread, start, min(limit, MOST_READ)], lambda reply: _read_runs_of(thread, reply))


def forget_run_call(key: str, thread: str = "", now_ms: int | str = "") -> Call[bool]:
    """Forget a run that has ended, given its thread if it has one; False: it has not, or is unknown."""
    script = load_script("shared/queue/scripts/records/forget_run")
    return Call(script, [task_hash(key), result_key(key), events_key(key)], [key, thread, now_ms], bool)


def write_about(said: Mapping[str, Any]) -> bytes:
    """Write what a client says about a run, at most `LONGEST_ABOUT` bytes: of a longer one nothing is kept."""
    if not any(said.values()):
        return b""
    text = json.dumps(said, separators=(",", ":")).encode()
    about = zlib.compress(text) if len(text) >= _COMPRESSED_FROM else text
    return about if len(about) <= LONGEST_ABOUT else b""


def _read_about(about: bytes) -> dict[str, Any]:
    """Read it; what another program wrote is empty."""
    with suppress(ValueError, zlib.error):
        found = read_json(about if about[:1] == b"{" else zlib.decompressobj().decompress(about, 16 * LONGEST_ABOUT))
        return found if isinstance(found, dict) else {}
    return {}


def _read_page(reply: Sequence[Any]) -> RunPage:
    before, *rows = reply
    found = (_read_run(key.decode(errors="replace"), *rest) for key, *rest in rows)
    return RunPage(tuple(run for run in found if run), before)


def _read_each(keys: Sequence[str], reply: Sequence[Any]) -> list[RunRecord | None]:
    return [_read_run(key, *row) if row else None for key, row in zip(keys, reply, strict=True)]


def _read_runs_of(thread: str, reply: Sequence[Any]) -> list[RunRecord | None]:
    return [_read_run(key.decode(errors="replace"), thread.encode(), *rest) for key, *rest in reply]


def _read_run(key: str, thread: bytes, line: bytes, about: bytes) -> RunRecord | None:
    """Read one; None: another program has written to it."""
    try:
        state, *values = read_json(line)
        graph, user, created, started, ended, attempts, input_tokens, output_tokens, cost, error = values or _NOTHING
        return RunRecord(
            key,
            thread.decode(errors="replace") or None,
            State(state),
            graph_name(graph),
            user or None,
            _instant(created),
            _instant(started),
            _instant(ended),
            int(attempts),
            int(input_tokens),
            int(output_tokens),
            int(cost),
            error or None,
            _read_about(about),
        )
    except (ValueError, TypeError, OverflowError):
        return None


_NOTHING = ("", "", 0, 0, 0, 0, 0, 0, 0, "")


def _ms(instant: datetime | None) -> int:
    return round(instant.timestamp() * 1000) if instant else 0


def _instant(ms: float) -> datetime | None:
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None

"""`langgraph-producer audit`: show the audit log, check its chains, or export it."""

import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import click
from redis import Redis

from langgraph_rq.producer.cli.connection import connected_redis
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import TelemetrySettings, load
from langgraph_rq.shared.telemetry.anchors import ANCHORS, AnchorCheck
from langgraph_rq.shared.telemetry.audit import (
    ALTERED,
    DAY_MS,
    HEADS,
    OF_WORKERS,
    STREAM,
    Fault,
    read_entries,
    verify,
)

_PAGE = 1_000
_EXIT_CODES = """
\b
Exit codes:
  0  done
  1  with --verify: entries were altered, inserted or removed
  2  a key or an option is wrong
  3  Redis cannot be reached
"""


@click.command(epilog=_EXIT_CODES)
@click.option(
    "--verify",
    "check",
    is_flag=True,
    help="Check all chains and anchors; needs LGRQ_AUDIT_KEY and LGRQ_AUDIT_WORKER_KEY.",
)
@click.option(
    "--export", "file", type=click.File("w", lazy=False), help="Write all entries as JSON lines; - is stdout."
)
@click.option("--task", "task_id", help="Show only what was done to this task.")
@click.option("--last", default=50, show_default=True, type=click.IntRange(1), help="Show so many entries.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per line.")
def audit(*, check: bool, file: TextIO | None, task_id: str | None, last: int, as_json: bool) -> None:
    """Show who submitted, read, cancelled or resumed what and when, and how it ended.

    \b
    Examples:
      langgraph-producer audit --task 7541897b-8dcb-4539-ad83-7db3f43609a3
      langgraph-producer audit --verify
      langgraph-producer audit --export audit-2026-11.jsonl

    --verify does not find what was removed of the last seconds, before a worker anchored it.
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    with connected_redis() as redis:
        if check:
            _verify(redis, as_json=as_json)
        elif file:
            for entry in _entries(redis):
                file.write(json.dumps(entry) + "\n")
        else:
            _show(redis, task_id, last, as_json=as_json)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of the whole log found."""

    entries: int
    writers: int
    faults: list[Fault]
    anchored_at: datetime | None
    """When the newest entry was appended that a worker has signed as one of all; None: there is no anchor."""
    behind: int
    """Entries that no anchor covers."""
    wrong_keys: dict[str, int]
    """Variables whose key probably is not the one that signed: none of its entries verifies -> how many they are."""


def read_log(redis: Redis, check: AnchorCheck | None = None) -> Iterator[dict[str, str]]:
    """Yield all entries, the oldest first, page by page; `check` sees each."""
    after = "-"
    while True:
        rows: Any = redis.xrange(STREAM, min=after, count=_PAGE)
        for (entry_id, _), entry in zip(rows, read_entries(rows), strict=True):
            if check:
                check.see(entry_id.decode(), entry.get("digest", ""))
            yield entry
        if len(rows) < _PAGE:
            return
        after = f"({rows[-1][0].decode()}"


def verify_log(redis: Redis, settings: TelemetrySettings) -> Verdict:
    """Check every chain and every anchor. Raises SettingsError: there is no key."""
    if settings.audit_key is None:
        raise SettingsError(
            "LGRQ_AUDIT_KEY: expected the key that signed the audit log, got: nothing; set it, and "
            "LGRQ_AUDIT_WORKER_KEY if workers have one of their own"
        )
    key, worker_key = settings.audit_key.get_secret_value(), settings.workers_audit_key or ""
    now_ms = round(time.time() * 1000)
    # Anchors and heads first: what is written in between is then in the entries, beyond both, which is no fault.
    anchors: Any = redis.hgetall(ANCHORS)
    heads: Any = redis.hgetall(HEADS)
    known = {writer.decode(errors="replace"): head.decode(errors="replace") for writer, head in heads.items()}
    check = AnchorCheck(anchors, worker_key, now_ms - settings.audit_days * DAY_MS)
    seen: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, str]]:
        for entry in read_log(redis, check):
            seen[_key_of(settings, is_workers=entry.get("action") in OF_WORKERS)] += 1
            yield entry

    entries = counted()
    faults = list(verify(entries, known, key, worker_key=worker_key, keep_days=settings.audit_days, now_ms=now_ms))
    altered = Counter(_key_of(settings, is_workers=one.is_workers) for one in faults if one.what == ALTERED)
    wrong_keys = {key: count for key, count in altered.items() if count == seen[key] and count > 1}
    at_ms = check.anchored_at_ms
    anchored_at = None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
    return Verdict(seen.total(), len(known), [*faults, *check.faults()], anchored_at, check.behind, wrong_keys)


def _key_of(settings: TelemetrySettings, *, is_workers: bool) -> str:
    """Return the variable of the key that signs an entry."""
    return "LGRQ_AUDIT_WORKER_KEY" if is_workers and settings.audit_worker_key else "LGRQ_AUDIT_KEY"


def _verify(redis: Redis, *, as_json: bool) -> None:
    settings = load(TelemetrySettings)
    found = verify_log(redis, settings)
    if as_json:
        shown = [{"writer": one.writer, "seq": one.seq, "what": one.what} for one in found.faults]
        terminal.write(
            {
                "entries": found.entries,
                "writers": found.writers,
                "anchored_until": found.anchored_at and found.anchored_at.isoformat(timespec="milliseconds"),
                "not_anchored": found.behind,
                "probably_wrong_keys": list(found.wrong_keys),
                "faults": shown,
            }
        )
    else:
        for line in _sentences(found, settings):
            terminal.write(line)
        if found.faults and settings.audit_worker_key is None:
            terminal.write("LGRQ_AUDIT_WORKER_KEY is not set: what workers signed with it counts as a fault here")
    if found.faults:
        click.get_current_context().exit(1)


def _sentences(found: Verdict, settings: TelemetrySettings) -> list[str]:
    if not (found.entries or found.faults):
        return [_why_empty(settings)]
    lines = [
        f"{one.writer} entry {one.seq}: {one.what}"
        for one in found.faults
        if one.what != ALTERED or _key_of(settings, is_workers=one.is_workers) not in found.wrong_keys
    ]
    lines += [
        f"{key}: probably another key than the one that signed the log: none of its {count:,} entries verifies"
        for key, count in found.wrong_keys.items()
    ]
    verdict = f"{len(found.faults)} faults" if found.faults else "every chain is whole"
    lines.append(f"{found.entries} entries of {found.writers} writers: {verdict}")
    if found.anchored_at is None:
        lines.append("no worker has anchored the log: entries that its writers removed from its end do not show")
    else:
        until = found.anchored_at.isoformat(timespec="milliseconds")
        lines.append(f"anchored by workers until {until}; {found.behind} entries are newer: removed ones do not show")
    return lines


def _show(redis: Redis, task_id: str | None, last: int, *, as_json: bool) -> None:
    chosen = _newest(redis, task_id, last)
    if not chosen and not redis.xlen(STREAM):
        terminal.report(_why_empty(load(TelemetrySettings)))
    elif not chosen and task_id:
        terminal.report(f"no entry of the audit log is about the task {task_id}; with API keys an id is <tenant>--<id>")
    elif as_json:
        for entry in chosen:
            terminal.write(_shown(entry))
    elif chosen:
        terminal.write(_table(chosen))


def _table(chosen: Sequence[dict[str, str]]) -> terminal.Rows:
    table = terminal.Rows("at", "who", "action", "task", terminal.Column("details", wraps=True))
    for entry in chosen:
        shown = _shown(entry)
        details = ", ".join(f"{name}={value}" for name, value in shown["details"].items())
        table.add_row(shown["at"], shown["actor"], shown["action"], shown["task"], details)
    return table


def _entries(redis: Redis) -> Iterator[dict[str, str]]:
    """Yield all entries; report why if there are none."""
    is_empty = True
    for entry in read_log(redis):
        is_empty = False
        yield entry
    if is_empty:
        terminal.report(_why_empty(load(TelemetrySettings)))


def _why_empty(settings: TelemetrySettings) -> str:
    """Say why there may be no entries, and what to do."""
    if settings.audit_key is None:
        return (
            "the audit log is empty, and LGRQ_AUDIT_KEY is not set here: only programs that have the key keep it; "
            "give one (`openssl rand -hex 32`) to clients, gateways and workers, and start them again"
        )
    return (
        f"the audit log is empty: no program that has LGRQ_AUDIT_KEY has done anything on this Redis in "
        f"{settings.audit_days} days; see that clients, gateways and workers have it, and this REDIS_URL"
    )


def _newest(redis: Redis, task_id: str | None, last: int) -> Sequence[dict[str, str]]:
    """Read the newest entries, the oldest of them first; those of one task are looked for in the whole log."""
    if task_id is None:
        rows: Any = redis.xrevrange(STREAM, count=last)
        return list(read_entries(rows[::-1]))
    return deque((entry for entry in read_log(redis) if entry["task"] == task_id), maxlen=last)


def _shown(entry: dict[str, str]) -> dict[str, Any]:
    details = json.loads(entry["details"])
    at = datetime.fromtimestamp(int(entry["at"]) / 1000, UTC).isoformat(timespec="milliseconds")
    who = details.pop("actor", "")
    return {"at": at, "actor": who, "action": entry["action"], "task": entry["task"], "details": details}

"""`langgraph-producer audit`: show the audit log, check its chains, or export it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

import click
from redis import Redis
from rich.console import Console
from rich.table import Table

from langgraph_rq.producer.cli.connection import connected_redis
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import TelemetrySettings, load
from langgraph_rq.shared.telemetry.audit import HEADS, STREAM, Fault, read_entries, verify

_PAGE = 1_000


@click.command()
@click.option("--verify", "check", is_flag=True, help="Check every writer's chain; needs LGRQ_AUDIT_KEY.")
@click.option("--export", "file", type=click.File("w"), help="Write all entries as JSON lines; - is stdout.")
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

    With --verify the exit code is 1 when entries were altered, inserted or removed.
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    with connected_redis() as redis:
        if check:
            _verify(redis, as_json=as_json)
        elif file:
            for entry in read_log(redis):
                file.write(json.dumps(entry) + "\n")
        else:
            _show(redis, task_id, last, as_json=as_json)


def read_log(redis: Redis) -> Iterator[dict[str, str]]:
    """Yield all entries, the oldest first, page by page."""
    after = "-"
    while True:
        rows: Any = redis.xrange(STREAM, min=after, count=_PAGE)
        yield from read_entries(rows)
        if len(rows) < _PAGE:
            return
        after = f"({rows[-1][0].decode()}"


def _verify(redis: Redis, *, as_json: bool) -> None:
    settings = load(TelemetrySettings)
    if settings.audit_key is None:
        raise SettingsError("LGRQ_AUDIT_KEY: expected the key that signed the audit log, got: nothing")
    # The heads first: what is written in between is then in the entries, beyond its head, which is no fault.
    heads: Any = redis.hgetall(HEADS)
    known = {writer.decode(): head.decode() for writer, head in heads.items()}
    key = settings.audit_key.get_secret_value()
    seen = 0

    def counted() -> Iterator[dict[str, str]]:
        nonlocal seen
        for entry in read_log(redis):
            seen += 1
            yield entry

    now_ms = round(time.time() * 1000)
    faults = list(verify(counted(), known, key, keep_days=settings.audit_days, now_ms=now_ms))
    if as_json:
        shown = [{"writer": one.writer, "seq": one.seq, "what": one.what} for one in faults]
        click.echo(json.dumps({"entries": seen, "writers": len(known), "faults": shown}))
    else:
        click.echo(_sentence(seen, len(known), faults))
    if faults:
        click.get_current_context().exit(1)


def _sentence(entries: int, writers: int, faults: list[Fault]) -> str:
    lines = [f"{one.writer} entry {one.seq}: {one.what}" for one in faults]
    verdict = f"{len(faults)} faults" if faults else "every chain is whole"
    return "\n".join([*lines, f"{entries} entries of {writers} writers: {verdict}"])


def _show(redis: Redis, task_id: str | None, last: int, *, as_json: bool) -> None:
    chosen = [entry for entry in read_log(redis) if task_id in {None, entry["task"]}][-last:]
    if as_json:
        for entry in chosen:
            click.echo(json.dumps(_shown(entry)))
        return
    table = Table(box=None, header_style="bold")
    for column in ("at", "who", "action", "task", "details"):
        table.add_column(column, overflow="fold")
    for entry in chosen:
        shown = _shown(entry)
        details = ", ".join(f"{name}={value}" for name, value in shown["details"].items())
        table.add_row(shown["at"], shown["actor"], shown["action"], shown["task"], details)
    Console(highlight=False, markup=False).print(table)


def _shown(entry: dict[str, str]) -> dict[str, Any]:
    details = json.loads(entry["details"])
    at = datetime.fromtimestamp(int(entry["at"]) / 1000, UTC).isoformat(timespec="milliseconds")
    who = details.pop("actor", "")
    return {"at": at, "actor": who, "action": entry["action"], "task": entry["task"], "details": details}

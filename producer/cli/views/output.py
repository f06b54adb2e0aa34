"""What commands write: results and states, as tables for people or as JSON, and the exit codes of tasks."""

import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import click
from pydantic_core import to_json
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from langgraph_rq.producer.cli.views.reasons import shown_reasons
from langgraph_rq.producer.client.client import Client
from langgraph_rq.producer.client.reading.lookup import TaskStatus
from langgraph_rq.producer.client.resume import INTERRUPT
from langgraph_rq.shared import terminal
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.terminal import Column, Rows, pairs

EXIT_CODES = """
\b
Exit codes:
  0  done
  1  the task (or one of them) did not succeed
  2  the input is wrong, or it was refused; what was queued of a --file is written
  3  Redis cannot be reached
  4  no such task
  5  it has not ended (in time)
"""

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object per line.")

_COLOURS = {State.SUCCESS: "green", State.RUNNING: "cyan", State.PENDING: "yellow", State.INTERRUPTED: "magenta"}


def state(value: State) -> Text:
    """Colour a state."""
    return Text(value.value, style=_COLOURS.get(value, "red"))


def status(found: TaskStatus, ended: TaskResult | None = None) -> RenderableType:
    """Lay out where a task is, and of one that has not succeeded why; what there is not is left out."""
    table = pairs()
    table.add_row("task", found.task_id)
    table.add_row("state", state(found.state))
    if ended and ended.error:
        table.add_row("error", _error(ended))
    for question in questions(ended):
        table.add_row("asks", Text(_shown(question.get("value"))))
        table.add_row("", Text(f"id {question.get('id')}", "dim"))
    if ended and ended.metadata.next:
        table.add_row("stopped", Text(f"before {', '.join(ended.metadata.next)}; resume it without a value"))
    tokens = f" ({found.input_tokens} tokens in, {found.output_tokens} out)"
    values = {
        "waits": found.reason,
        "graph": found.graph,
        "node": found.node or (ended.error.node if ended and ended.error else None),
        "user": found.user_id,
        "thread": found.thread_id,
        "cost": f"${found.cost_usd:.6f}" + tokens if found.input_tokens or found.cost_usd else None,
        "queue": found.queue,
        "attempts": str(found.attempts),
        "submitted": _instant(found.submitted_at),
        "started": _instant(found.started_at),
        "deadline": _instant(found.deadline_at),
        "worker": found.worker,
    }
    for name, value in values.items():
        if value:
            table.add_row(name, Text(value))
    return table


def statuses(many: Iterable[TaskStatus]) -> RenderableType:
    """Lay out many tasks, a row each."""
    numbers = (Column(title, right=True) for title in ("tokens", "cost $"))
    table = Rows("task", "state", "graph", "user", "submitted", *numbers, Column("waits", wraps=True))
    for one in many:
        table.add_row(
            one.task_id,
            state(one.state),
            one.graph,
            one.user_id,
            _instant(one.submitted_at),
            str(one.input_tokens + one.output_tokens),
            f"{one.cost_usd:.6f}",
            one.reason,
        )
    return table


def questions(ended: TaskResult | None) -> list[dict[str, Any]]:
    """Return what an interrupted task asks: {"id", "value"} of each question."""
    asked = ended.result.get(INTERRUPT) if ended and isinstance(ended.result, dict) else None
    return [one for one in asked if isinstance(one, dict)] if isinstance(asked, list) else []


def result(one: TaskResult) -> RenderableType:
    """Lay out one result: what was answered first, then how."""
    metadata = one.metadata
    table = pairs()
    table.add_row("task", one.task_id)
    table.add_row("status", state(one.status))
    if one.error:
        table.add_row("error", _error(one))
        if one.error.node:
            table.add_row("node", Text(one.error.node))
        for frame in one.error.frames:
            if frame.user:
                table.add_row("at", Text(f"{frame.file}:{frame.line} {frame.function}"))
    if metadata.graph:  # a task that was rejected was not read
        table.add_row("graph", Text(metadata.graph))
    if metadata.next:
        table.add_row("stopped", Text(f"before {', '.join(metadata.next)}; resume it without a value"))
    if asked := questions(one):
        how = "VALUE" if len(asked) == 1 else "--answer ID=VALUE ..."
        table.add_row("asks", Text(f"answer it: langgraph-producer resume {one.task_id} {how}"))
    if metadata.continues:
        table.add_row("continues", Text(metadata.continues))
    if metadata.model:
        tokens = f"{metadata.input_tokens} in, {metadata.output_tokens} out"
        tokens += ", estimated" if metadata.usage_estimated else ""
        table.add_row("model", Text(f"{metadata.model} ({tokens}, ${metadata.cost_usd:.6f})"))
    table.add_row("time", f"{metadata.queued_ms} ms queued, {metadata.run_ms} ms run, {metadata.attempts} attempt(s)")
    return table if one.result is None and one.error else Group(_answer(one), Text(), table)


def results(many: Iterable[TaskResult]) -> RenderableType:
    """Lay out many results, a row each."""
    numbers = (Column(title, right=True) for title in ("tokens", "cost $", "time s"))
    table = Rows("task", "complexity", "model", *numbers, "status", Column("error", wraps=True))
    for one in many:
        metadata = one.metadata
        table.add_row(
            one.task_id,
            metadata.complexity,
            metadata.model,
            str(metadata.input_tokens + metadata.output_tokens),
            f"{metadata.cost_usd:.6f}",
            f"{metadata.run_ms / 1000:.2f}",
            state(one.status),
            _error(one),
        )
    return table


def _error(one: TaskResult) -> Text | None:
    return Text(f"{one.error.type}: {one.error.message}") if one.error else None


def _instant(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _answer(one: TaskResult) -> Text:
    """Take the text that was made for people out of a result, if it has one."""
    if isinstance(one.result, dict) and isinstance(one.result.get("answer"), str):
        return Text(one.result["answer"])
    # Never wrapped here: a line break inside a string would change the value that a user copies.
    return Text(to_json(one.result, indent=2).decode(), no_wrap=True, overflow="ignore")


def refuse_timeout_alone(timeout_s: float | None, *, wait: bool) -> None:
    """Refuse --timeout without --wait, where it would have no effect."""
    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout is how long --wait waits: give both")


def write_warnings_once() -> None:
    """Keep Python from writing what the client logs as a warning, for a command that writes it itself."""
    logging.getLogger("langgraph_rq").addHandler(logging.NullHandler())


def warn_without_worker(reason: str) -> None:
    """Warn that no live worker can run a task, or tasks of the same kind."""
    terminal.report(f"warning: {reason}; tasks wait for one", "yellow")


def write_results(
    client: Client, task_ids: Sequence[str], timeout_s: float | None, reasons: Collection[str], *, as_json: bool
) -> None:
    """Write results as they come, and exit with the code that they make; `reasons` were shown already."""
    ended: list[TaskResult] = []
    left = dict.fromkeys(task_ids)
    try:
        with shown_reasons(client, left, reasons):
            for one in progress(client.wait_each(task_ids, timeout_s), len(task_ids), "ended"):
                left.pop(one.task_id, None)
                ended.append(one)
                if as_json or len(task_ids) == 1:
                    write_result(one, as_json=as_json)
    except KeyboardInterrupt:
        first, *others = left
        tasks = f"{first} and {len(others)} more go on" if others else f"{first} goes on"
        terminal.report(f"task {tasks}: `wait` waits again, `cancel` stops a task", "yellow")
        raise
    finally:  # also those that ended before the time was over, or beside an unknown one
        if ended and not as_json and len(task_ids) > 1:
            terminal.write(results(ended))
    sys.exit(exit_code(ended))


def write_result(one: TaskResult, *, as_json: bool) -> None:
    """Write one result."""
    terminal.write(one.model_dump(mode="json", by_alias=True) if as_json else result(one))


def exit_code(results: Iterable[TaskResult]) -> int:
    """Return 1 if a task did not succeed."""
    return int(any(one.status not in {State.SUCCESS, State.INTERRUPTED} for one in results))


def progress(items: Iterator[Any], total: int, what: str) -> Iterator[Any]:
    """Pass items on, with a progress bar on a terminal when there are many."""
    if total == 1 or not terminal.errors.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal.errors) as progress:
        yield from progress.track(items, total=total, description=what)

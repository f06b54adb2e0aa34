"""What commands write for people: results and states as tables."""

from collections.abc import Iterable

from pydantic_core import to_json
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from langgraph_rq.producer.client.lookup import TaskStatus
from langgraph_rq.shared.tasks import State, TaskResult

_COLOURS = {State.SUCCESS: "green", State.RUNNING: "cyan", State.PENDING: "yellow", State.INTERRUPTED: "magenta"}


def state(value: State) -> Text:
    """Colour a state."""
    return Text(value.value, style=_COLOURS.get(value, "red"))


def status(found: TaskStatus) -> RenderableType:
    """Lay out where a task is."""
    table = _grid()
    table.add_row("task", found.task_id)
    table.add_row("state", state(found.state))
    table.add_row("queue", found.queue)
    table.add_row("attempts", str(found.attempts))
    table.add_row("submitted", found.submitted_at.isoformat(timespec="seconds"))
    table.add_row("started", found.started_at.isoformat(timespec="seconds") if found.started_at else "-")
    table.add_row("deadline", found.deadline_at.isoformat(timespec="seconds") if found.deadline_at else "-")
    table.add_row("worker", found.worker or "-")
    if found.reason:
        table.add_row("waits", Text(found.reason))
    return table


def result(one: TaskResult) -> RenderableType:
    """Lay out one result: what was answered first, then how."""
    metadata = one.metadata
    table = _grid()
    table.add_row("task", one.task_id)
    table.add_row("status", state(one.status))
    if one.error:
        table.add_row("error", Text(f"{one.error.type}: {one.error.message}"))
    table.add_row("graph", Text(metadata.graph))
    if metadata.model:
        tokens = f"{metadata.input_tokens} in, {metadata.output_tokens} out"
        tokens += ", estimated" if metadata.usage_estimated else ""
        table.add_row("model", Text(f"{metadata.model} ({tokens}, ${metadata.cost_usd:.6f})"))
    table.add_row("time", f"{metadata.queued_ms} ms queued, {metadata.run_ms} ms run, {metadata.attempts} attempt(s)")
    return Group(_answer(one), Text(), table)


def results(many: Iterable[TaskResult]) -> RenderableType:
    """Lay out many results, a row each."""
    table = Table(box=None, header_style="bold")
    for column in ("task", "complexity", "model"):
        table.add_column(column)
    for column in ("tokens", "cost $", "time s"):
        table.add_column(column, justify="right")
    table.add_column("status")
    for one in many:
        metadata = one.metadata
        table.add_row(
            one.task_id,
            metadata.complexity or "-",
            metadata.model or "-",
            str(metadata.input_tokens + metadata.output_tokens),
            f"{metadata.cost_usd:.6f}",
            f"{metadata.run_ms / 1000:.2f}",
            state(one.status),
        )
    return table


def _answer(one: TaskResult) -> Text:
    """Take the text that was made for people out of a result, if it has one."""
    if isinstance(one.result, dict) and isinstance(one.result.get("answer"), str):
        return Text(one.result["answer"])
    return Text(to_json(one.result, indent=2).decode())


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    return grid

"""What commands write for people: results and states as tables."""

from collections.abc import Iterable

from pydantic_core import to_json
from rich.console import Group, RenderableType
from rich.text import Text

from langgraph_rq.producer.client.lookup import TaskStatus
from langgraph_rq.shared.tasks import State, TaskResult
from langgraph_rq.shared.terminal import Column, Rows, pairs

_COLOURS = {State.SUCCESS: "green", State.RUNNING: "cyan", State.PENDING: "yellow", State.INTERRUPTED: "magenta"}


def state(value: State) -> Text:
    """Colour a state."""
    return Text(value.value, style=_COLOURS.get(value, "red"))


def status(found: TaskStatus) -> RenderableType:
    """Lay out where a task is."""
    table = pairs()
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
    table = pairs()
    table.add_row("task", one.task_id)
    table.add_row("status", state(one.status))
    if one.error:
        table.add_row("error", _error(one))
    table.add_row("graph", Text(metadata.graph))
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


def _answer(one: TaskResult) -> Text:
    """Take the text that was made for people out of a result, if it has one."""
    if isinstance(one.result, dict) and isinstance(one.result.get("answer"), str):
        return Text(one.result["answer"])
    # The terminal wraps it: a line feed inside a string would be another value for whoever copies it.
    return Text(to_json(one.result, indent=2).decode(), no_wrap=True, overflow="ignore")

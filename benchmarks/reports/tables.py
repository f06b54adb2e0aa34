"""Measurements as tables on a terminal."""

import os
import platform
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.measured import Cell, Goal, Measured

_VERDICTS = {True: Text("met", style="green"), False: Text("missed", style="red")}


def measured(one: Measured) -> RenderableType:
    """Lay out one measurement, a column for each key of its rows."""
    table = _table(one.title)
    for column, value in one.rows[0].items():
        table.add_column(column.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in one.rows:
        table.add_row(*map(cell, row.values()))
    return Group(table, Text(one.note, style="dim"), Text(), *map(measured, one.also))


def goals(many: Iterable[Goal]) -> RenderableType:
    """Lay out the goals and whether they were met."""
    table = _table("Goals")
    for column in ("goal", "measured", "limit", "", "beside"):
        table.add_column(column, justify="right" if column in {"measured", "limit"} else "left")
    for goal in many:
        what, value, limit, _, beside = goal_cells(goal)
        table.add_row(what, value, limit, _VERDICTS[goal.is_met], beside)
    load = os.getloadavg()[0]
    machine = f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {load:.1f} at the end"
    return Group(table, Text(f"{machine}: on a busy machine trust the ratios (x) and the CPU.", style="dim"))


def goal_cells(goal: Goal) -> tuple[str, str, str, str, str]:
    """Format a goal: what, value, limit, verdict, and the figure beside it."""
    limit = f"{'<=' if goal.is_upper else '>='} {cell(goal.limit)} {goal.unit}"
    return goal.what, f"{cell(goal.value)} {goal.unit}", limit, "met" if goal.is_met else "missed", goal.beside


def cell(value: Cell) -> str:
    """Format a figure with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None)

"""Measurements as tables for people and as JSON for machines."""

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.measured import Cell, Goal, Measured

_LIBRARIES = ("langgraph", "langchain-openai", "langgraph-checkpoint-redis", "openai", "rq", "redis", "uvloop")


def measured(one: Measured) -> RenderableType:
    """Lay out one measurement, a column for each key of its rows."""
    table = Table(title=one.title, title_justify="left", title_style="bold", header_style="bold", box=None)
    for column, cell in one.rows[0].items():
        table.add_column(column.replace("_", " "), justify="left" if isinstance(cell, str) else "right")
    for row in one.rows:
        table.add_row(*map(_cell, row.values()))
    return Group(table, Text(one.note, style="dim"), Text())


def goals(many: Iterable[Goal]) -> RenderableType:
    """Lay out what was to be reached, and what was."""
    table = Table(title="Goals", title_justify="left", title_style="bold", header_style="bold", box=None)
    for column in ("goal", "measured", "limit", ""):
        table.add_column(column, justify="right" if column in {"measured", "limit"} else "left")
    for goal in many:
        limit = f"{'<=' if goal.is_upper else '>='} {_cell(goal.limit)} {goal.unit}"
        verdict = Text("met", style="green") if goal.is_met else Text("missed", style="red")
        table.add_row(goal.what, f"{_cell(goal.value)} {goal.unit}", limit, verdict)
    return Group(table, Text(machine_line(), style="dim"))


def document(found: Mapping[str, Measured], *, quick: bool) -> dict[str, Any]:
    """Make the JSON document: the machine, then each measurement under its name."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "load_1_min": os.getloadavg()[0],
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "measurements": {
            name: {**asdict(one), "goals": [{**asdict(goal), "is_met": goal.is_met} for goal in one.goals]}
            for name, one in found.items()
        },
    }


def machine_line() -> str:
    """Say on what this was measured, and how busy that was."""
    load = os.getloadavg()[0]
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"Python {python}, {os.cpu_count()} CPUs, load {load:.1f} at the end: on a busy machine trust the ratios (x)."
    )


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"

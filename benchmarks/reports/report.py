"""The files of a run: report.md for people, figures.json for programs, and the plot."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measured import Cell, Goal, Measured
from benchmarks.measurements import concurrency
from benchmarks.reports import plot
from benchmarks.reports.tables import cell, goal_cells
from langgraph_rq.shared.dev.embedded_redis import find_redis

_LIBRARIES = ("langgraph", "langchain-openai", "langgraph-checkpoint-redis", "openai", "rq", "redis", "uvloop")
_SHOWN = {"redis": "redis-py"}
_PLOT = "concurrency.png"


def write(folder: Path, found: Mapping[str, Measured], *, quick: bool) -> None:
    """Write all files; create the folder if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = document(found, quick=quick)
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(_markdown(found, figures), encoding="utf-8")
    if swept := found.get(concurrency.MEASUREMENT.name):
        plot.draw(swept.rows, folder / _PLOT)


def document(found: Mapping[str, Measured], *, quick: bool) -> dict[str, Any]:
    """Make the JSON document: the machine, then each measurement under its name."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "load_1_min": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            **{_SHOWN.get(name, name): version(name) for name in _LIBRARIES},
            "server": _server(),
        },
        "measurements": {
            name: {**asdict(one), "goals": [{**asdict(goal), "is_met": goal.is_met} for goal in one.goals]}
            for name, one in found.items()
        },
    }


def _server() -> str:
    """Return name, version and allocator of the server: the one built with jemalloc takes a third less CPU for us."""
    said = subprocess.run([find_redis().server, "--version"], capture_output=True, text=True, check=True).stdout
    name, _, details = said.partition(" server v=")
    return f"{name} {details.partition(' ')[0]} ({said.partition('malloc=')[2].partition(' ')[0]})"


def _markdown(found: Mapping[str, Measured], figures: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    quick = "\nA quick run: few tasks, one round." if figures["quick"] else ""
    parts = ["# Benchmarks", f"Measured at {figures['measured_at']} on: {machine}.{quick}"]
    goals = [goal for one in found.values() for goal in one.goals]
    if goals:
        parts += ["## Goals", _goals(goals)]
    for name, one in found.items():
        for table in (one, *one.also):
            parts += [
                f"## {table.title}",
                _table(list(table.rows[0]), (row.values() for row in table.rows)),
                table.note,
            ]
        if name == concurrency.MEASUREMENT.name:
            parts.append(f"![tasks per second and memory against tasks in flight]({_PLOT})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _goals(goals: Sequence[Goal]) -> str:
    return _table(["goal", "measured", "limit", "", "beside"], map(goal_cells, goals))


def _table(header: Sequence[str], rows: Iterable[Iterable[Cell]]) -> str:
    lines = [[name.replace("_", " ") for name in header], ["---"] * len(header)]
    lines += [[cell(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

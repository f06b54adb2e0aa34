"""The plot of tasks per second and memory against tasks in flight."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.measured import Cell

mpl.use("Agg")  # before pyplot is imported: there may be no screen

from matplotlib import pyplot as plt

_PANELS = {"tasks_per_s": "tasks per second", "rss_mb": "memory of the process (MB)"}
_COLOURS = {"worker": "#2a6fb0", "bare graph": "#8a8a8a"}


def draw(rows: Sequence[Mapping[str, Cell]], file: Path) -> None:
    """Draw one line per system, labelled where it ends."""
    figure, panels = plt.subplots(1, len(_PANELS), figsize=(10, 4), layout="constrained")
    for axes, (column, label) in zip(panels, _PANELS.items(), strict=True):
        for system, colour in _COLOURS.items():
            own = [row for row in rows if row["system"] == system]
            in_flight, values = [row["in_flight"] for row in own], [row[column] for row in own]
            axes.plot(in_flight, values, marker="o", color=colour)
            axes.annotate(
                system, (in_flight[-1], values[-1]), (6, 0), textcoords="offset points", va="center", color=colour
            )
        ticks = sorted({row["in_flight"] for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.set_xlabel("tasks in flight")
        axes.set_title(label, loc="left", fontsize=11)
        axes.set_ylim(0, 1.15 * max(row[column] for row in rows))
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(file, dpi=150)
    plt.close(figure)

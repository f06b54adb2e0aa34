"""The types of a measurement and its result: tables of figures, and goals with limits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from benchmarks.rig import Rig

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and its limit, `unit` being the unit of both ("x" for a ratio)."""

    what: str
    value: float
    limit: float
    unit: str
    is_upper: bool = True
    """Whether the limit is the largest value that is good enough, not the smallest."""
    beside: str = ""
    """The same figure as a ratio to something else in this run, such as "1.4 x the bare graph"."""

    @property
    def is_met(self) -> bool:
        """Whether the figure is good enough."""
        return self.value <= self.limit if self.is_upper else self.value >= self.limit


@dataclass(frozen=True, slots=True)
class Measured:
    """A result: rows of column -> cell, all with the same columns. Columns of numbers carry their unit."""

    title: str
    rows: Sequence[Mapping[str, Cell]]
    goals: Sequence[Goal] = ()
    note: str = ""
    also: Sequence["Measured"] = ()
    """Further tables from the same figures."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One entry of the list in `benchmarks.run`."""

    name: str
    about: str
    measure: Callable[[Rig], Measured]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, ceil(len(ranked) * percent / 100) - 1)]


def middle_ratio(values: Sequence[float], floors: Sequence[float]) -> float:
    """Return the median of the ratios round by round: the machine's speed changes between rounds."""
    return median(value / floor for value, floor in zip(values, floors, strict=False))

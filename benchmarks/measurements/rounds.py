"""One system on one workload, and the figures of its rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measured import middle_ratio
from benchmarks.systems.contenders import Contender


@dataclass(frozen=True, slots=True)
class Entry:
    """One system on one workload.

    Args:
        system: As the tables name it.
        workload: The graph's name.
        contender: The system, started.
        tasks: Of one round.
        same: The entry of the bare graph that it is compared with first.
        checkpoints: Whether they are kept.
        is_warm: Whether it keeps anything from task to task; without, one cold round is enough.
    """

    system: str
    workload: str
    contender: Contender
    tasks: int
    same: str
    checkpoints: bool = False
    is_warm: bool = True

    @property
    def bare(self) -> str:
        """The entry of the bare graph in one process without checkpoints."""
        return f"bare {self.workload}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one entry; CPU in milliseconds per task."""

    tasks_per_s: float
    cpu_ms: float
    redis_ms: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """All rounds of one entry."""

    samples: Sequence[Sample]

    def all(self, figure: str) -> list[float]:
        """Return a figure of every round."""
        return [getattr(sample, figure) for sample in self.samples]

    def middle(self, figure: str) -> float:
        """Return a figure's median."""
        return median(self.all(figure))

    def times(self, other: "Rounds", figure: str) -> float:
        """Return the ratio to another entry's figure."""
        return middle_ratio(self.all(figure), other.all(figure))

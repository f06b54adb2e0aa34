"""The guarded model calls of a worker process, as it announces them and as the doctor judges a fleet by them.

The announcement is a JSON object: `models`, breaker -> {`attempts`, `fallbacks`}; `by_difficulty`, the models among
which a graph chooses by how difficult a question is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from langgraph_rq.shared.announcements.announcement import Announcement


@dataclass(frozen=True, slots=True)
class GuardedModel:
    """How a model is called."""

    attempts: int = 1
    """The guards' own, the first included."""
    fallbacks: tuple[str, ...] = ()
    """Models that are called when this one cannot be used."""

    def __or__(self, other: "GuardedModel") -> "GuardedModel":
        """Merge two ways in which one model is called: the best of both."""
        fallbacks = tuple(dict.fromkeys((*self.fallbacks, *other.fallbacks)))
        return GuardedModel(max(self.attempts, other.attempts), fallbacks)


@dataclass(frozen=True, slots=True)
class GuardedModels(Announcement):
    """What one process announces."""

    models: Mapping[str, GuardedModel] = field(default_factory=dict)
    by_difficulty: tuple[str, ...] = ()

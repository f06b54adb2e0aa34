"""The guarded models of this process, which its worker announces to the fleet for the doctor.

A model is known once `guarded_chat_model` has wrapped it, and at its first call where the handler guards it.
"""

from collections.abc import Sequence

from langgraph_rq.shared.announcements.guarded_models import GuardedModel, GuardedModels

_MOST = 50
"""Models that a process announces."""

_models: dict[str, GuardedModel] = {}
_by_difficulty: set[str] = set()


def note_model(breaker: str, attempts: int = 1, fallbacks: Sequence[str] = ()) -> None:
    """Announce that calls of a model are guarded; from any thread."""
    called, known = GuardedModel(attempts, tuple(fallbacks)), _models.get(breaker)
    if known and known != called:
        _models[breaker] = known | called
    elif known is None and len(_models) < _MOST:
        _models[breaker] = called


def note_choice(models: Sequence[str]) -> None:
    """Announce that a graph chooses among models by how difficult a question is."""
    _by_difficulty.update(models)


def announcement() -> str:
    """Write what the worker announces; from any thread."""
    return GuardedModels(dict(_models), tuple(sorted(_by_difficulty))).announcement()

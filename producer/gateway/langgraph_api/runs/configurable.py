"""What `config.configurable` and `context` say about a run itself: its thread, its checkpoint, its user."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from langgraph_rq.producer.gateway.problems import invalid
from langgraph_rq.shared.errors import Violation
from langgraph_rq.shared.run_fields import LANGGRAPHS, OURS
from langgraph_rq.shared.strict_json import kind
from langgraph_rq.shared.tasks import Name

_NAME = TypeAdapter(Name)
_NAMING = frozenset({"thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "user_id"})
_NO_VALUE: tuple[Any, ...] = (None, "", {})
"""Values of `checkpoint_ns` and `checkpoint_map` that name no subgraph."""


@dataclass(frozen=True, slots=True)
class Configurable:
    """A run's `configurable`, as a task takes it."""

    others: dict[str, Any]
    """The keys that nodes read and that name nothing."""
    checkpoint_id: str | None = None
    user_id: str | None = None
    """The user for turns, limits and budgets; nodes read it as `user_id` of `configurable`."""


def read_configurable(given: Mapping[str, Any], thread_id: str | None) -> Configurable:
    """Read `config.configurable` of a run on a thread; None: it has none.

    Raises:
        ProblemError: 422, another thread is named, a checkpoint of a subgraph, or a user that is no text.
    """
    if (thread := given.get("thread_id")) not in (None, thread_id):
        expected = "the thread of the path, or nothing" if thread_id else "nothing: a run without a thread has none"
        raise _invalid("thread_id", expected, thread)
    for name in ("checkpoint_ns", "checkpoint_map"):
        if given.get(name) not in _NO_VALUE:
            raise _invalid(name, "nothing: a run begins at a checkpoint of the graph itself", given[name])
    if (user_id := given.get("user_id")) is not None and not _is_name(user_id):
        raise _invalid("user_id", "text of 1 to 256 characters", user_id)
    others = {name: value for name, value in given.items() if name not in _NAMING}
    return Configurable(others, given.get("checkpoint_id") or None, user_id)


def read_context(context: Mapping[str, Any]) -> Configurable:
    """Read a run's `context`, which LangGraph mirrors into `configurable`, without what a worker sets there."""
    others = {name: value for name, value in context.items() if name not in OURS and not name.startswith(LANGGRAPHS)}
    user_id = context.get("user_id")
    return Configurable(others, user_id=user_id if _is_name(user_id) else None)


def _is_name(value: Any) -> bool:
    try:
        _NAME.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _invalid(name: str, expected: str, value: Any) -> Exception:
    return invalid(Violation(f"config.configurable.{name}", expected, kind(value)))

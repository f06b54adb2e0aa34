"""Lists of names that clients send: how a query holds them, and which keys of a state they may select."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from langgraph_rq.shared.strict_json import read_json

_STATE_KEYS = (
    "values", "next", "tasks", "metadata", "created_at", "checkpoint", "parent_checkpoint", "interrupts",
    "checkpoint_id", "parent_checkpoint_id",
)  # fmt: skip
_OF_VALUES = "values."


def _read_listed(given: Any) -> Any:
    return [name for one in given for name in _names(one)] if isinstance(given, list) else given


def _names(text: Any) -> Sequence[Any]:
    if isinstance(text, str) and text.startswith("["):
        try:
            found = read_json(text)
        except ValueError:
            return [text]
        return found if isinstance(found, list) else [text]
    return [name for name in text.split(",") if name] if isinstance(text, str) else [text]


Listed = BeforeValidator(_read_listed)
"""A list in a query: each name alone, names with commas between them, or a list as JSON, as earlier SDKs write it."""


def _known_keys(select: list[str]) -> list[str]:
    for name in select:
        if name not in _STATE_KEYS and not name.startswith(_OF_VALUES):
            raise ValueError(f"keys of a state ({', '.join(_STATE_KEYS)}) or values.<key>")
    return select


StateKeys = Annotated[list[str], AfterValidator(_known_keys)]
"""Keys of a state; `values.<key>` is one key of its values."""


def select_keys(state: Mapping[str, Any], select: Sequence[str] | None) -> Mapping[str, Any]:
    """Keep the selected keys of a state; all of them if none is selected."""
    if not select:
        return state
    shown = {name: state[name] for name in select if name in state}
    if "values" not in shown and any(name.startswith(_OF_VALUES) for name in select):
        values = state["values"] if isinstance(state["values"], dict) else {}
        shown["values"] = {name: value for name, value in values.items() if _OF_VALUES + name in select}
    return shown

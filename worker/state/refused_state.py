"""The error of state that is refused: on writing a type that is not allowed, on reading what no worker wrote."""

from langgraph_rq.shared.errors import LanggraphRqError

TYPES_SETTING = "LGRQ_STATE_TYPES"
KEY_SETTING = "LGRQ_STATE_KEY"


class RefusedStateError(LanggraphRqError):
    """A checkpoint, a store item or a cached result holds a type that is not allowed, or cannot be read."""


def type_refused(module: str, name: str) -> RefusedStateError:
    """Make the error of a type that is not allowed; both names may come from Redis, and are cut."""
    spec = f"{module[:100]}:{name[:100]}"
    return _refused(spec, f"if that is a type of yours, name it in {TYPES_SETTING}={spec} of every worker")


def without_form(of: type) -> RefusedStateError:
    """Make the error of a type that no setting can allow, because there is no way to write it."""
    return _refused(
        f"{of.__module__[:100]}:{of.__qualname__[:100]}",
        "keep it out of the state, or make it a dataclass, a pydantic model, an enum or a named tuple",
    )


def _refused(spec: str, advice: str) -> RefusedStateError:
    return RefusedStateError(
        f"state: expected plain data, messages or a type of the graphs' states, got: {spec!r}; {advice}"
    )

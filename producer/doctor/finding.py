"""What a check answers: how bad it is, why, and what to do."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from langgraph_rq.producer.doctor.system import System


class Level(IntEnum):
    """The value is the exit code when nothing worse was found."""

    PASS = 0
    WARN = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """`fix` is empty when nothing is wrong."""

    level: Level
    reason: str
    fix: str = ""


Check = Callable[[System], Finding]


def passed(reason: str) -> Finding:
    """All is well."""
    return Finding(Level.PASS, reason)


def warned(reason: str, fix: str) -> Finding:
    """A warning: needs a decision."""
    return Finding(Level.WARN, reason, fix)


def failed(reason: str, fix: str) -> Finding:
    """Not fit for production."""
    return Finding(Level.FAIL, reason, fix)

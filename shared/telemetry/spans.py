"""What a span is, before anything is decided about where it goes."""

import random
import time
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import NamedTuple, Self

Value = str | int | float | bool


class Kind(IntEnum):
    """OTLP's numbers of span kinds."""

    INTERNAL = 1
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class SpanId(NamedTuple):
    """A place in a trace, as W3C's traceparent names it."""

    trace: str
    span: str
    is_sampled: bool = True

    @classmethod
    def parse(cls, traceparent: str) -> Self:
        """Read a traceparent that the task's contract has checked."""
        _, trace, span, flags = traceparent.split("-")
        return cls(trace, span, bool(int(flags, 16) & 1))

    @property
    def traceparent(self) -> str:
        """Write it for another process."""
        return f"00-{self.trace}-{self.span}-{int(self.is_sampled):02x}"

    def child(self) -> "SpanId":
        """Name a new span of the same trace."""
        return SpanId(self.trace, new_span_id(), self.is_sampled)

    def attempt(self, task_id: str, epoch: int) -> "SpanId":
        """Name an attempt at a task, the same in every process, so that the next attempt can link to it."""
        digest = sha256(f"{self.trace}:{task_id}:{epoch}".encode()).hexdigest()
        return SpanId(self.trace, digest[:16], self.is_sampled)


@dataclass(slots=True)
class Span:
    """One span; instants in nanoseconds since the epoch. `error` is the type of what went wrong, never its message."""

    name: str
    trace: str
    id: str
    parent: str | None
    kind: Kind = Kind.INTERNAL
    start_ns: int = field(default_factory=time.time_ns)
    end_ns: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str | None = None
    links: tuple[SpanId, ...] = ()

    def end(self, error: str | None = None) -> None:
        """Close it now."""
        self.end_ns = time.time_ns()
        self.error = error


def new_span_id() -> str:
    """Choose the id of a span."""
    return f"{random.getrandbits(64):016x}"

"""Waiting for a refusal to end: in place for two seconds at most, then without a slot.

A task that could not go on gives back its slot and lies in a waiting set in Redis, see shared/queue/waits.py. It starts
again from its last checkpoint. An attempt that has paid for a call since then would pay for it again: it keeps its
memory and its task, and gives back only its slot, so that another task can be claimed. So may a limited number of
attempts of one process; one beyond that goes to the set.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.worker.guards.event_loops import stops_a_loop

IN_PLACE_S = 2.0
"""A longer wait is not waited in place."""
MOST_KEPT = 500
KEPT_PAUSE = Backoff(first_s=1.0, longest_s=10.0)
"""An attempt that keeps its memory asks again by the clock: nothing wakes it."""


@dataclass(slots=True)
class AttemptWaits:
    """What an attempt would pay again if it started anew from its last checkpoint, and what its calls wait for."""

    paid: Counter[str] = field(default_factory=Counter)
    """Calls that it has paid since its last checkpoint, without those whose answer the journal has, by the checkpoint
    on which their node began; empty: unknown."""
    in_flight: int = 0
    """Calls that were admitted and are not settled."""
    things: list[str] = field(default_factory=list)
    """What its calls wait for, or waited for until they were admitted, while its memory is kept."""
    runs_with_fallbacks: set[UUID] = field(default_factory=set)
    """LangChain runs in which a `with_fallbacks` runs: their calls do not wait, for the next model is called."""

    @property
    def is_waiting(self) -> bool:
        """Whether it only waits, so that it holds no slot: no call of it is under way."""
        return bool(self.things) and self.in_flight == 0

    @property
    def thing(self) -> str:
        """What it waits for; empty: it does not only wait."""
        return self.things[0] if self.is_waiting else ""

    @property
    def would_pay_again(self) -> bool:
        """Whether it must not start anew."""
        return self.paid.total() > 0 or self.in_flight > 0

    def free(self, began_at: str) -> None:
        """Note that the answer to a paid call is in the journal: it is not paid again."""
        if self.paid[began_at]:
            self.paid[began_at] -= 1

    def forget(self, saved: str) -> None:
        """Forget the calls of nodes behind which the checkpoint `saved` is."""
        for began_at in [one for one in [*self.paid] if one < saved]:
            del self.paid[began_at]


class KeptAttempts:
    """The attempts of one process that keep their memory while they wait.

    Safe for callers on several loops.

    Args:
        most: Attempts at a time.
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._kept = 0
        self._lock = threading.Lock()
        self.on_change: Callable[[], object] = lambda: None
        """Called when a slot was given back, or taken again."""

    def waiting(self, attempt: AttemptWaits) -> "CallWait":
        """Let one call of an attempt wait; a context manager that takes its slot again at the end."""
        return CallWait(self, attempt)

    def keep(self, attempt: AttemptWaits, thing: str) -> bool:
        """Give back the attempt's slot; False: there are too many, or it can as well start anew."""
        if not attempt.would_pay_again or stops_a_loop.get():
            return False
        with self._lock:
            if not attempt.things and self._kept >= self._most:
                return False
            self._kept += not attempt.things
            attempt.things.append(thing)
        self.on_change()
        return True

    def leave(self, attempt: AttemptWaits, thing: str) -> None:
        """Take the attempt's slot again, unless another call of it waits too."""
        with self._lock:
            attempt.things.remove(thing)
            self._kept -= not attempt.things
        self.on_change()


@dataclass(slots=True)
class CallWait:
    """One call that waits."""

    kept: KeptAttempts
    attempt: AttemptWaits
    thing: str = ""
    """What it waits for with its memory kept; empty: it waits in place."""
    pauses: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.thing:
            self.kept.leave(self.attempt, self.thing)

    def keep(self, thing: str) -> bool:
        """Keep the attempt's memory from now on, and give back its slot; False: it cannot."""
        if not self.thing and self.kept.keep(self.attempt, thing):
            self.thing = thing
        return bool(self.thing)

    def pause_s(self) -> float:
        """Return how long it waits before it asks again."""
        self.pauses += 1
        return KEPT_PAUSE.pause_s(self.pauses)

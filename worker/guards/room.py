"""Calls of this process that wait for room in the budget, first come, first served."""

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.budget.token_budget import Payer
from langgraph_rq.shared.queue.waits import BUDGET, Wait

_ASK_AGAIN = Backoff(first_s=0.1, longest_s=1.6)
"""Calls of other processes settle unnoticed: for them the first call of each line asks again by the clock.

With its jitter at most every 2 s, so that it keeps its place before those of other processes, see reserve.lua.
"""
_WITHOUT_DEADLINE_S = 60.0


class Room:
    """One line of waiting calls per limit, and only its first call asks the budget.

    The first call of a line asks again when a call of this process settles within the same limit, and by the clock. A
    call that leaves its line, granted or cancelled, lets the next one ask, since a settled call may have freed room for
    several. A new call joins the line of any of its limits instead of overtaking it.

    Safe for callers on several loops.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Turn]] = {}
        self._lock = threading.Lock()

    def turn(self, payer: Payer, *, may_wait: bool = True) -> "Turn":
        """Give a call its turn, at the end of a line if others of its limits wait; at once if it may not wait.

        A context manager: the call leaves its line at the end.
        """
        turn = Turn(self, payer)
        if self._lines and may_wait:
            with self._lock:
                line = next((one for one in _limits_of(payer).values() if one in self._lines), None)
            if line:
                self.join(turn, line)
        return turn

    def freed(self, payer: Payer) -> None:
        """Let the first call of each line of the payer's limits ask, after a call of the payer has settled."""
        if self._lines:
            with self._lock:
                for limit in _limits_of(payer).values():
                    if limit in self._lines:
                        self._lines[limit][0].wake()

    def join(self, turn: "Turn", line: str) -> None:
        """Put a call at the end of a line; it keeps its place in a line where it stands already."""
        if turn.line == line:
            return
        if turn.line:
            self.leave(turn)
        with self._lock:
            turn.line = line
            self._lines.setdefault(line, deque()).append(turn)

    def leave(self, turn: "Turn") -> None:
        """Take a call out of its line, and let the next one ask if it was the first."""
        with self._lock:
            line, turn.line = turn.line, ""
            waiting = self._lines[line]
            was_first = waiting[0] is turn
            waiting.remove(turn)
            if not waiting:
                del self._lines[line]
            elif was_first:
                waiting[0].wake()

    def is_first(self, turn: "Turn") -> bool:
        """Return whether no other call of its line comes before."""
        with self._lock:
            return self._lines[turn.line][0] is turn


@dataclass(slots=True, eq=False)
class Turn:
    """One call's turn to ask the budget: at once, or behind the calls that wait for the same limit."""

    room: Room
    payer: Payer
    line: str = ""
    """The limit that the call waits for; empty: it does not wait."""
    joined_at: float = field(default_factory=time.monotonic)
    _pauses: int = 0
    _event: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.line:
            self.room.leave(self)

    @property
    def scope(self) -> str:
        """Whose limit the call waits for."""
        scope = self.line.partition(":")[0]
        return "fleet" if scope == "global" else scope

    def wait(self, scope: str = "") -> Wait:
        """Return what the call's task can wait for: room in the budget of `scope`, or of its line."""
        return Wait(BUDGET + (_limits_of(self.payer)[scope] if scope else self.line))

    async def comes(self, deadline_at: float | None) -> bool:
        """Wait until the call may ask; False: its deadline (monotonic; None: after a minute) comes first."""
        if not self.line:
            return True
        give_up_at = time.monotonic() + _WITHOUT_DEADLINE_S if deadline_at is None else deadline_at
        while (left_s := give_up_at - time.monotonic()) > 0:
            is_first = self.room.is_first(self)
            if is_first and self._event.is_set():
                break
            self._pauses += is_first
            pause_s = _ASK_AGAIN.pause_s(self._pauses) if is_first else left_s
            try:
                async with asyncio.timeout(min(pause_s, left_s)):
                    await self._event.wait()
            except TimeoutError:
                if left_s <= pause_s:  # a timer may fire a little early
                    return False
            if self.room.is_first(self):
                break
            self._event.clear()
        # Cleared before the call asks: what settles from now on is not missed.
        self._event.clear()
        return time.monotonic() < give_up_at

    def wait_for(self, scope: str) -> None:
        """Go to the end of the line of a limit that is held by running calls.

        The call asks once more before it waits, since a call may have settled after it asked and before it joined.
        """
        line = _limits_of(self.payer)[scope]
        if line != self.line:
            self.room.join(self, line)
            self._event.set()

    def wake(self) -> None:
        """Let the call ask again; from any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._event.set)


def _limits_of(payer: Payer) -> dict[str, str]:
    return {
        "task": f"task:{payer.task}",
        "user": f"user:{payer.user}",
        "tenant": f"tenant:{payer.encoded_tenant}",
        "global": "global",
    }

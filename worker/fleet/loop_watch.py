"""Detect that an event loop does not run, and find what blocks it, from another thread.

A coroutine that calls something blocking (`time.sleep`, a sync HTTP client, a long computation) stops every task of
its process. The watching thread reads the stack of the loop's thread and the context of the asyncio task on it. A
blocking call that keeps the interpreter lock stops the watching thread too, and is not seen: the fork server kills its
process.
"""

import asyncio
import gc
import os
import sys
import sysconfig
import threading
import time
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task

LOOK_S = 0.25
"""Time between two looks."""
BLOCKED_S = 1.0
"""A loop that is silent for so long is reported."""
STUCK_S = 30.0
"""A loop that is silent for so long is given up: a worker lets its lease end, an isolated task fails."""

_OURS = "langgraph_rq."
_DEBUGGERS = {"bdb", "pdb"}
"""Modules of Python's debugger, below the others for terminals too."""
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Blocker:
    """What a loop is running: the line of the graph's own code, as file:line, and the task that it belongs to."""

    line: str
    task: TaskGuard | None


class LoopWatch:
    """Watches one loop. Make it in the loop's thread; one other thread calls `look` every `LOOK_S`.

    A loop that stands at a breakpoint is not silent if the process has a terminal, where a person types on.

    Args:
        loop: The running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.silent_s = 0.0
        """How long the loop has not answered."""
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._has_answered = True
        self._is_reported = False
        self._has_terminal = os.isatty(0)
        self._looked_at = time.monotonic()

    @property
    def is_stuck(self) -> bool:
        """Whether the loop is to be given up."""
        return self.silent_s > STUCK_S

    @property
    def is_suspect(self) -> bool:
        """Whether what blocks the loop is to be recorded: a supervisor may kill the process before it is given up."""
        return self.silent_s > STUCK_S / 3

    def look(self) -> None:
        """Ask the loop for a sign of life, and report a loop that has not answered since `BLOCKED_S`, once."""
        now = time.monotonic()
        if self._has_answered:
            self.silent_s, self._has_answered, self._is_reported = 0.0, False, False
            self._loop.call_soon_threadsafe(self._answer)
        elif not (self._has_terminal and self._is_debugged()):
            # While this thread was held up too, by SIGSTOP for example, the loop's silence proves nothing.
            self.silent_s += min(now - self._looked_at, 2 * LOOK_S)
        self._looked_at = now
        if self.silent_s >= BLOCKED_S and not self._is_reported:
            self._is_reported = True
            line, context = self._line(), self._context()
            fields = {"line": line, "silent_ms": round(self.silent_s * 1000)}
            (context.copy() if context else Context()).run(lambda: _log.warning("loop.blocked", **fields))

    def blocker(self) -> Blocker:
        """Find what the loop is running now."""
        context = self._context()
        return Blocker(self._line(), context.get(current_task) if context else None)

    def _is_debugged(self) -> bool:
        """Whether the loop stands at a breakpoint, where a person at the terminal may take any time."""
        frame = self._frame()
        while frame and frame.f_globals.get("__name__") not in _DEBUGGERS:
            frame = frame.f_back
        return frame is not None

    def _frame(self) -> FrameType | None:
        """Return the innermost frame of the loop's thread."""
        return sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the only way to another thread's stack

    def _answer(self) -> None:
        self._has_answered = True

    def _context(self) -> Context | None:
        """Return the context of the asyncio task that the loop is running; None: it runs none."""
        task = asyncio.current_task(self._loop)
        if task is None:
            return None
        if sys.version_info >= (3, 12):
            return task.get_context()
        # Before 3.12 a task shows its context to the garbage collector only, before those of its callbacks.
        return next((one for one in gc.get_referents(task) if isinstance(one, Context)), None)

    def _line(self) -> str:
        """Name the innermost line outside of the libraries and of this package; without one, the innermost of all."""
        innermost = frame = self._frame()
        while frame and _is_of_a_library(frame):
            frame = frame.f_back
        shown = frame or innermost
        return f"{_short(shown.f_code.co_filename)}:{shown.f_lineno}" if shown else "unknown"


def _is_of_a_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith((*_LIBRARIES, "<")) or str(frame.f_globals.get("__name__")).startswith(_OURS)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

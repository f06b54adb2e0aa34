"""Several worker processes on one host: start them, restart those that crash, stop them together.

The parent imports the libraries once and forks before there is any thread, loop or connection; each child loads its
own graphs. A child whose parent is gone drains and exits.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from langgraph_rq.shared.telemetry.logs import get_logger

_BAD_SETTINGS, _NO_REDIS = 2, 3
"""Exit codes of a failed start. Without Redis, first starts are not repeated; later ones are, until it is back."""
_RESTART_WAIT_S = 1.0
ENDING = (signal.SIGTERM, signal.SIGINT)
"""Signals that end a worker."""

T = TypeVar("T")

_log = get_logger(__name__)


def run_processes(n: int, run: Callable[[], int]) -> int:
    """Run `run` in `n` processes until they exit; returns the exit code. With `n` = 1 it runs in this process."""
    if n == 1:
        return run()
    return _Supervisor(n, run).supervise()


class _Supervisor:
    def __init__(self, n: int, run: Callable[[], int]) -> None:
        self._n = n
        self._run = run
        self._alive_read, self._alive_write = os.pipe()
        self._returned_read, self._returned_write = os.pipe()
        os.set_blocking(self._returned_read, False)
        self._returned: set[int] = set()
        """Processes that have ended by themselves; others were ended by a signal, or by a node's os._exit."""
        self._children: set[int] = set()
        self._first: set[int] = set()
        self._stopping = False

    def supervise(self) -> int:
        for number in ENDING:
            signal.signal(number, self._stop)
        for _ in range(self._n):
            self._start()
        self._first = set(self._children)
        worst = 0
        while self._children:
            try:
                pid, status = os.waitpid(-1, 0)
            except InterruptedError:
                continue
            if pid not in self._children:  # process 1 of a container inherits orphans
                continue
            self._children.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            self._read_returned()
            has_returned = pid in self._returned
            is_final = code == _BAD_SETTINGS or (code == _NO_REDIS and pid in self._first)
            if has_returned and is_final:
                worst = max(worst, code)
                self._stop()
            elif (code or not has_returned) and not self._stopping:
                _log.warning("process.replaced", pid=pid, exit_code=code)
                time.sleep(_RESTART_WAIT_S)
                self._start()
        return worst

    def _start(self) -> None:
        with blocked_signals():
            if self._stopping:
                return
            pid = os.fork()
            if pid:
                self._children.add(pid)
                return
            for number in ENDING:
                signal.signal(number, signal.SIG_DFL)
        code = 1
        try:
            os.setpgrp()  # Ctrl-C reaches the parent only, which forwards it once
            os.close(self._alive_write)
            threading.Thread(target=_end_with_parent, args=(self._alive_read,), daemon=True).start()
            code = self._run()
            os.write(self._returned_write, b"%d\n" % os.getpid())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _read_returned(self) -> None:
        with suppress(BlockingIOError):
            self._returned.update(map(int, os.read(self._returned_read, 64_000).split()))

    def _stop(self, *_signal: object) -> None:
        self._stopping = True
        for pid in tuple(self._children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block `ENDING` around a fork: a signal could miss the new child, or find it without handlers of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _end_with_parent(alive: int) -> None:
    """Drain when the parent's end of the pipe closes, which the kernel does even after kill -9."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def end_within(seconds: float, code: int) -> None:
    """Let this process end with `code` after a while, whatever still runs in it.

    At exit, Python waits without limit for threads that a node has started; until then everything else ends as usual.
    """

    def end() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=end, name="end", daemon=True).start()


def run_past_exits(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. A node that calls sys.exit() fails its own task, one that stops the loop none."""
    running = loop.create_task(main)
    while not running.done():
        try:
            loop.run_until_complete(running)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:  # the last one: loop.stop() was called
            if running.done() or loop.is_closed():
                raise
            _log.warning("node.exited", error=type(error).__name__)
    return running.result()

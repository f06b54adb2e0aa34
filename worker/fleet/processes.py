"""Several worker processes on one host: start them, start those again that were killed, end them together.

The parent imports the libraries once and forks before there is any thread, loop or connection; each child loads its
own graphs. A child whose parent is gone drains and ends.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

_BAD_SETTINGS, _NO_REDIS = 2, 3
"""Exit codes of a start that failed. The first starts are not repeated; a Redis that is away later on is waited for."""
_RESTART_WAIT_S = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT)


def run_processes(n: int, run: Callable[[], int]) -> int:
    """Run `run` in `n` processes until they end; answers the exit code. With one, in this process itself."""
    if n == 1:
        return run()
    return _Supervisor(n, run).supervise()


class _Supervisor:
    def __init__(self, n: int, run: Callable[[], int]) -> None:
        self._n = n
        self._run = run
        self._alive_read, self._alive_write = os.pipe()
        self._children: set[int] = set()
        self._first: set[int] = set()
        self._stopping = False

    def supervise(self) -> int:
        for number in _ENDING:
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
            if pid not in self._children:  # as process 1 of a container we inherit what our children leave behind
                continue
            self._children.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            is_first = pid in self._first
            if code == _BAD_SETTINGS or (code == _NO_REDIS and is_first):
                worst = max(worst, code)
                self._stop()
            elif code and not self._stopping:
                click.echo(f"worker process {pid} ended with {code}: starting another", err=True)
                time.sleep(_RESTART_WAIT_S)
                self._start()
        return worst

    def _start(self) -> None:
        with _held_signals():
            if self._stopping:
                return
            pid = os.fork()
            if pid:
                self._children.add(pid)
                return
            for number in _ENDING:
                signal.signal(number, signal.SIG_DFL)
        code = 1
        try:
            os.setpgrp()  # Ctrl-C reaches the parent only, which passes it on once
            os.close(self._alive_write)
            threading.Thread(target=_end_with_parent, args=(self._alive_read,), daemon=True).start()
            code = self._run()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _stop(self, *_signal: object) -> None:
        self._stopping = True
        for pid in tuple(self._children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


@contextmanager
def _held_signals() -> Iterator[None]:
    """Fork within: a signal would else miss the child that is just being made, or run the parent's handler in it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def _end_with_parent(alive: int) -> None:
    """Wait for the parent's end of the pipe to close, which the kernel sees to even after kill -9."""
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)

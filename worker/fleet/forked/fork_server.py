"""A fork server: a process that forks children for a worker, and was forked before the worker had threads or a loop.

A child has the libraries imported and starts in milliseconds, where a new Python would import for seconds. Each child
has a socket pair to the worker, and ends with the worker. A watcher between server and child waits for the child, and
sends its exit code. Why not multiprocessing's: docs/adr/0010.

A node that holds the interpreter's lock, as a regular expression can for hours, stops all threads of its process, also
those that would end it. So a thread of each process gives signs of life, once its graphs are loaded: the server kills
a silent worker, and the watcher a silent child, or one that outlives its connection. A worker whose loop is stuck is
silent, too.

    worker ──fork at boot──► fork server ──fork──► watcher ──fork──► child
       └───────────────── socket pair ────────────────┴────────────────┘
"""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.fleet.processes import ENDING, blocked_signals

DIED = "died"
"""The last message on a connection, with the child's exit code, negative for a signal."""

_LEAVE_S = 5.0
"""How long a child has to end by itself."""
_SIGN_S = 5.0
_SILENT_S = 30.0
"""Between two signs of life, and how long without one before a process is killed. A worker has no lease by then."""

_SIGN = b"."
_STOPPED = "Tt"
"""States of a stopped process in Linux: by a signal, or by a debugger."""

_LIBRARIES = ("langgraph_rq.worker.context", "langchain_openai")
"""Imported before the first child is forked."""

Run = Callable[[Connection, Callable[[], None]], None]
"""What a child does, given its end of the connection and what it calls to give signs of life from then on."""

_log = get_logger(__name__)


class ForkServer:
    """The worker's end: starts the server and asks it for children."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self.is_gone = False
        """Whether it has ended before its worker, which cannot fork another one: it has threads by now."""
        self._control = control
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._signs: threading.Thread | None = None

    @classmethod
    def start(cls, run: Run) -> Self:
        """Fork the server, whose children `run`. Call it before any thread is started."""
        ours, theirs = socket.socketpair()
        worker = os.getpid()
        with blocked_signals():
            pid = os.fork()
            if pid == 0:
                try:
                    ours.close()
                    _serve(theirs, worker, run)
                finally:
                    os._exit(0)
        theirs.close()
        return cls(ours, pid)

    def fork(self) -> Connection:
        """Fork a child; returns the worker's end of its connection. Closing it ends the child.

        Raises:
            OSError: the server is gone, or no more sockets can be opened.
        """
        ours, its = socket.socketpair()
        with its, self._lock:
            try:
                socket.send_fds(self._control, [b"+"], [its.fileno()])
            except OSError:
                ours.close()
                raise
        return Connection(ours.detach())

    def give_signs(self, is_stuck: Callable[[], bool]) -> None:
        """Be killed from now on when this process gives no signs of life.

        Args:
            is_stuck: Asks whether it should give none, though its threads run: it cannot go on.
        """
        self._give_sign()
        self._signs = threading.Thread(target=self._give_signs, args=(is_stuck,), name="signs", daemon=True)
        self._signs.start()

    def close(self) -> None:
        """End the server."""
        self._is_closed.set()
        if self._signs:
            self._signs.join()
        self._control.close()

    def _give_signs(self, is_stuck: Callable[[], bool]) -> None:
        while not (self._is_closed.wait(_SIGN_S) or self.is_gone):
            if not is_stuck():
                self._give_sign()

    def _give_sign(self) -> None:
        """Show the server that this process lives."""
        try:
            with suppress(BlockingIOError), self._lock:  # the server was stopped: it has signs enough
                self._control.send(_SIGN, socket.MSG_DONTWAIT)
        except OSError:
            self.is_gone = True


def _serve(control: socket.socket, worker: int, run: Run) -> None:
    """Fork a child for each connection that is received, until the worker is gone. Begins with `ENDING` blocked."""
    os.setpgrp()
    control.settimeout(_SIGN_S)
    silence = _Silence(worker)
    for number in ENDING:
        signal.signal(number, ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are not waited for
    has_libraries = False
    while True:
        try:
            asked, fds, _flags, _address = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            if os.getppid() != worker:
                return
            silence.go_on()
            continue
        if not asked:
            return
        if not fds:
            silence.end()
            continue
        if not has_libraries:
            for library in _LIBRARIES:
                with suppress(Exception):  # the child that needs it fails with the reason
                    import_module(library)
            has_libraries = True
        with suppress(OSError):  # no more processes: the worker sees its connection closed
            if os.fork() == 0:
                control.close()
                _watch(Connection(fds[0]), run)
                os._exit(0)
        os.close(fds[0])


def _watch(connection: Connection, run: Run) -> None:
    """Fork the child, wait for its end and send its exit code, which only the parent of a process gets."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signs, giving = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgrp()
        code = 1
        try:
            run(connection, partial(_start_signs, giving))
            code = 0
        finally:
            os._exit(code)  # also past threads that it leaves behind
    os.close(giving)
    threading.Thread(target=_kill_when_lost, args=(child, connection.fileno(), signs), daemon=True).start()
    _pid, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.send((DIED, os.waitstatus_to_exitcode(status)))


def _start_signs(giving: int) -> None:
    """Show the watcher that this child lives, now and from now on."""
    os.write(giving, _SIGN)
    threading.Thread(target=_give_signs, args=(giving,), name="signs", daemon=True).start()


def _give_signs(giving: int) -> None:
    with suppress(OSError):
        while True:
            time.sleep(_SIGN_S)
            os.write(giving, _SIGN)


def _kill_when_lost(child: int, connection: int, signs: int) -> None:
    """Kill the child if it is silent, or outlives the worker's end of its connection. Runs in a thread."""
    silence = _Silence(child)
    poll = select.poll()
    poll.register(connection, 0)  # reports the end of the other side only
    poll.register(signs, select.POLLIN)
    while connection not in (found := [place for place, _event in poll.poll(_SIGN_S * 1000)]):
        if not found:
            silence.go_on()
        elif os.read(signs, 64):
            silence.end()
        else:  # it has ended
            return
    time.sleep(_LEAVE_S)
    _kill(child)


class _Silence:
    """The time since the last sign of life of a process, after which it is killed.

    It is counted in steps: a watcher that did not run itself, as in a container that was paused, counts one.
    None counts before the first sign, nor while the process is stopped by a signal.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        self._is_watched = False
        self._silent_s = 0.0

    def end(self) -> None:
        """Note a sign of life."""
        self._is_watched, self._silent_s = True, 0.0

    def go_on(self) -> None:
        """Count a step of `_SIGN_S` without a sign."""
        self._silent_s += _SIGN_S
        if not self._is_watched or _is_stopped(self._process):
            self._silent_s = 0.0
        elif self._silent_s >= _SILENT_S:
            _log.error("process.killed", pid=self._process, silent_s=round(self._silent_s))
            _kill(self._process)
            self._is_watched = False  # until it gives signs: process 1 of a container cannot be killed from within


def _is_stopped(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(") ")[2][:1] in _STOPPED


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def ignore(_signal: int, _frame: object) -> None:
    """Ignore a signal; unlike SIG_IGN, this is not inherited by the programs that a node starts."""

"""A fork server: a process that forks children for a worker, and was forked before the worker had threads or a loop.

A child has the libraries imported and starts in milliseconds, where a new Python would import for seconds. Each child
has a socket pair to the worker, and ends with the worker. A watcher between server and child waits for the child, and
sends its exit code. Why not multiprocessing's: docs/adr/0010.

A node that holds the interpreter's lock, as a regular expression can for hours, stops all threads of its process, also
those that would end it. So a thread of each process gives signs of life: the server kills a silent worker, and the
watcher a silent child, or one that outlives its connection. A worker whose loop is stuck is silent, too.

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

_log = get_logger(__name__)


class ForkServer:
    """The worker's end: starts the server and asks it for children."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self.is_gone = False
        """Whether it has ended before its worker, which cannot fork another one: it has threads by now."""
        self.is_stuck: Callable[[], bool] = lambda: False
        """Asks whether this process should give no signs of life, though its threads run: it cannot go on."""
        self._control = control
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._signs = threading.Thread(target=self._give_signs, name="signs", daemon=True)
        self._signs.start()

    @classmethod
    def start(cls, run: Callable[[Connection], None]) -> Self:
        """Fork the server. Call it before any thread is started.

        Args:
            run: What each child does, with its end of the connection.
        """
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

    def close(self) -> None:
        """End the server."""
        self._is_closed.set()
        self._signs.join()
        self._control.close()

    def _give_signs(self) -> None:
        """Show the server that this process lives, until one of them ends."""
        try:
            while not self._is_closed.wait(_SIGN_S):
                if not self.is_stuck():
                    with suppress(BlockingIOError), self._lock:  # the server was stopped: it has signs enough
                        self._control.send(_SIGN, socket.MSG_DONTWAIT)
        except OSError:
            self.is_gone = True


def _serve(control: socket.socket, worker: int, run: Callable[[Connection], None]) -> None:
    """Fork a child for each connection that is received, until the worker is gone. Begins with `ENDING` blocked."""
    os.setpgrp()
    control.settimeout(_SILENT_S)
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
            _kill_silent(worker)
            continue
        if not asked:
            return
        if not fds:  # a sign of life
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


def _watch(connection: Connection, run: Callable[[Connection], None]) -> None:
    """Fork the child, wait for its end and send its exit code, which only the parent of a process gets."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signs, giving = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgrp()
        code = 1
        try:
            threading.Thread(target=_give_signs, args=(giving,), name="signs", daemon=True).start()
            run(connection)
            code = 0
        finally:
            os._exit(code)  # also past threads that it leaves behind
    os.close(giving)
    threading.Thread(target=_kill_when_lost, args=(child, connection.fileno(), signs), daemon=True).start()
    _pid, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.send((DIED, os.waitstatus_to_exitcode(status)))


def _give_signs(giving: int) -> None:
    """Show the watcher that this child lives."""
    with suppress(OSError):
        while os.write(giving, _SIGN):
            time.sleep(_SIGN_S)


def _kill_when_lost(child: int, connection: int, signs: int) -> None:
    """Kill the child if it is silent, or outlives the worker's end of its connection. Runs in a thread."""
    poll = select.poll()
    poll.register(connection, 0)  # reports the end of the other side only
    poll.register(signs, select.POLLIN)
    while connection not in (found := [place for place, _event in poll.poll(_SILENT_S * 1000)]):
        if not found:
            _kill_silent(child)
        elif not os.read(signs, 64):  # it has ended
            return
    time.sleep(_LEAVE_S)
    _kill(child)


def _kill_silent(process: int) -> None:
    """Kill a process that gives no signs of life, unless it was stopped by a signal."""
    with suppress(OSError):
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        if stat.rpartition(") ")[2][:1] in _STOPPED:
            return
    _log.error("process.killed", pid=process, silent_s=round(_SILENT_S))
    _kill(process)


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def ignore(_signal: int, _frame: object) -> None:
    """Ignore a signal; unlike SIG_IGN, this is not inherited by the programs that a node starts."""

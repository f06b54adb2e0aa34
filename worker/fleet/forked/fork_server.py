"""A fork server: a process that forks children for a worker, and was forked before the worker had threads or a loop.

A child has the libraries imported and starts in milliseconds, where a new Python would import for seconds. Each child
has a socket pair to the worker, and ends with the worker. A watcher between server and child waits for the child, sends
its exit code, and kills it if it does not end by itself. Why not multiprocessing's: docs/adr/0010.

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
from typing import Self

from langgraph_rq.worker.fleet.processes import ENDING, blocked_signals

DIED = "died"
"""The last message on a connection, with the child's exit code, negative for a signal."""

_LEAVE_S = 5.0
"""How long a child has to end by itself. One that holds the interpreter's lock, as a regular expression can for hours,
does not see that its connection was closed."""

_LIBRARIES = ("langgraph_rq.worker.context", "langchain_openai")
"""Imported before the first child is forked."""


class ForkServer:
    """The worker's end: starts the server and asks it for children."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self.is_gone = False
        """Whether it has ended before its worker, which cannot fork another one: it has threads by now."""
        self._control = control
        self._lock = threading.Lock()

    @classmethod
    def start(cls, run: Callable[[Connection], None]) -> Self:
        """Fork the server. Call it before any thread is started.

        Args:
            run: What each child does, with its end of the connection.
        """
        ours, theirs = socket.socketpair()
        with blocked_signals():
            pid = os.fork()
            if pid == 0:
                try:
                    ours.close()
                    _serve(theirs, run)
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
            except OSError as error:
                ours.close()
                self.is_gone |= isinstance(error, ConnectionError)
                raise
        return Connection(ours.detach())

    def close(self) -> None:
        """End the server."""
        self._control.close()


def _serve(control: socket.socket, run: Callable[[Connection], None]) -> None:
    """Fork a child for each connection that is received, until the worker is gone. Begins with `ENDING` blocked."""
    os.setpgrp()
    for number in ENDING:
        signal.signal(number, ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers are not waited for
    has_libraries = False
    while True:
        asked, fds, _flags, _address = socket.recv_fds(control, 1, 1)
        if not asked:
            return
        if not has_libraries:
            for library in _LIBRARIES:
                with suppress(ImportError):
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
    child = os.fork()
    if child == 0:
        os.setpgrp()
        code = 1
        try:
            run(connection)
            code = 0
        finally:
            os._exit(code)  # also past threads that it leaves behind
    threading.Thread(target=_kill_when_left, args=(child, connection.fileno()), daemon=True).start()
    _pid, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.send((DIED, os.waitstatus_to_exitcode(status)))


def _kill_when_left(child: int, connection: int) -> None:
    """Kill the child if it outlives the worker's end of its connection. Runs in a thread of the watcher."""
    poll = select.poll()
    poll.register(connection, 0)  # reports the end of the other side only
    poll.poll()
    time.sleep(_LEAVE_S)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def ignore(_signal: int, _frame: object) -> None:
    """Ignore a signal; unlike SIG_IGN, this is not inherited by the programs that a node starts."""

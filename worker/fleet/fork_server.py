"""A process from which a worker forks others, itself forked before the worker had threads, a loop or connections.

A fork of it has the libraries imported and costs milliseconds, where a new Python would import for seconds. Each child
talks to the worker over a socket pair of its own, and ends when the worker does.

    worker ──fork at boot──► nursery ──fork──► minder ──fork──► child
       └───────────── socket pair ──────────────────┴──────────────┘
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Self

DIED = "died"
"""The last message on a connection: how the child ended, as an exit code, negative for a signal."""

_LIBRARIES = ("langgraph_rq.worker.context", "langchain_openai")
"""Imported when the first child is asked for."""


class Nursery:
    """Forks children for one worker process."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self._control = control
        self._lock = threading.Lock()

    @classmethod
    def start(cls, run: Callable[[Connection], None]) -> Self:
        """Fork the nursery, whose children will `run` with their end of the connection. Call it before any thread."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                _tend(theirs, run)
            finally:
                os._exit(0)
        theirs.close()
        return cls(ours, pid)

    def fork(self) -> Connection:
        """Fork a child; answers our end of its connection. Closed, it ends the child.

        Raises:
            OSError: the nursery is gone, or no more sockets can be opened.
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
        """End the nursery."""
        self._control.close()


def _tend(control: socket.socket, run: Callable[[Connection], None]) -> None:
    """Fork a child for each connection that comes, until the worker is gone."""
    os.setpgrp()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for minders
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
        with suppress(OSError):  # no more processes: the connection is closed, which the worker hears
            if os.fork() == 0:
                control.close()
                _mind(Connection(fds[0]), run)
                os._exit(0)
        os.close(fds[0])


def _mind(connection: Connection, run: Callable[[Connection], None]) -> None:
    """Fork the child and tell how it ended, which only its parent can know."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.setpgrp()
        code = 1
        try:
            run(connection)
            code = 0
        finally:
            os._exit(code)  # whatever thread is left behind
    _pid, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.send((DIED, os.waitstatus_to_exitcode(status)))


def _ignore(_signal: int, _frame: object) -> None:
    """Do nothing; unlike SIG_IGN this is not inherited by the programs that a node starts."""

"""What a node forks is no second worker: neither on the worker's connections, nor in its event loop.

A child of `os.fork`, also one of multiprocessing's default start method on Linux, shares the sockets and the epoll
instance of its parent. If it goes on with the parent's event loop, because a node has returned in both, both read the
replies of Redis: claims are lost, innocent tasks crash, and the worker never hears of SIGTERM again. So a child gets
/dev/null for each socket that an event loop watches, an epoll instance of its own, and ends where it leaves its node.

A child that ends within the node, as those of multiprocessing do, works as in any program. It also shares the socket by
which signals reach the event loop: SIGTERM to it, as at the end of `with multiprocessing.Pool()`, would stop the
worker. So SIGTERM ends it. Ctrl-C reaches it too, and is for the worker, which drains: its nodes need their children.
"""

import asyncio
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from langgraph_rq.worker.fleet.forked.fork_server import ignore
from langgraph_rq.worker.fleet.processes import ENDING

LEFT_ITS_NODE = 70
"""Exit code of a child that left its node."""

_EPOLL = "anon_inode:[eventpoll]"
_WATCHED = "tfd:"
"""What a line of an epoll instance's fdinfo begins with that names a descriptor which it watches."""

P = ParamSpec("P")
T = TypeVar("T")

_serving: tuple[asyncio.AbstractEventLoop, int] | None = None
"""The event loop of this process' worker, and its thread."""
_forking = threading.local()


@contextmanager
def kept_from_forks() -> Iterator[None]:
    """Keep the running loop, with all that it watches, from children that are forked while the block runs."""
    global _serving  # noqa: PLW0603 - a process has one loop, and hooks of forks cannot be removed
    _serving = asyncio.get_running_loop(), threading.get_ident()
    try:
        yield
    finally:
        _serving = None


def run_in_parent(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function; a child that it forks ends with it."""
    parent = os.getpid()
    try:
        return function(*args, **kwargs)
    finally:
        if os.getpid() != parent:
            os._exit(LEFT_ITS_NODE)


def _before_fork() -> None:
    """Block signals in this thread, and so in the child: one could come before the child has left the worker's."""
    if _serving:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def _unblock() -> None:
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_child() -> None:
    if _serving is None:
        return
    loop, thread = _serving
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, ignore)
    _unblock()
    with suppress(OSError):  # no Linux: the child can only end early
        _detach()
    if threading.get_ident() == thread:
        loop.call_soon(os._exit, LEFT_ITS_NODE)


def _detach() -> None:
    """Put /dev/null in the place of watched sockets, and empty instances in that of epoll's."""
    null = os.open(os.devnull, os.O_RDWR)
    places = [(int(one.name), _target(one.name)) for one in Path("/proc/self/fd").iterdir()]
    instances = [fd for fd, target in places if target == _EPOLL]
    for instance in instances:
        for fd in _watched(instance):
            if _target(fd).startswith("socket:"):
                os.dup2(null, fd, inheritable=False)
        with select.epoll() as empty:
            os.dup2(empty.fileno(), instance, inheritable=False)
    os.close(null)


def _target(fd: int | str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:  # it was that of the listing
        return ""


def _watched(instance: int) -> list[int]:
    lines = Path(f"/proc/self/fdinfo/{instance}").read_text(encoding="ascii").splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith(_WATCHED)]


os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_after_in_child)

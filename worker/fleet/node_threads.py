"""The threads of sync nodes, with a count of those that are stuck in a task that has ended."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import ParamSpec, TypeVar

from langgraph_rq.worker.fleet.forked.forks import run_in_parent
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task

THREAD = "node"

P = ParamSpec("P")
T = TypeVar("T")


class NodeThreads(ThreadPoolExecutor):
    """A pool with a thread for each task in flight or waiting; asyncio's default pool has six on two cores.

    A thread cannot be stopped. When a task is cancelled or reaches its deadline inside a sync node, the node continues
    and keeps its thread; its model calls are refused and its return value is dropped.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix=THREAD)
        self._running: dict[int, TaskGuard] = {}
        self._lock = Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Run `fn` in a thread on behalf of the task that calls."""
        task = current_task.get()
        future = super().submit(partial(run_in_parent, fn), *args, **kwargs)
        if task is not None:
            with self._lock:
                self._running[id(future)] = task
            future.add_done_callback(lambda done: self._forget(id(done)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - asyncio passes it
        """Accept no more nodes and wait for none, although asyncio asks to wait: a node may block without limit."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)

    @property
    def abandoned(self) -> int:
        """How many threads still run a node of a task that has ended."""
        with self._lock:
            return sum(task.is_over for task in self._running.values())

    def _forget(self, key: int) -> None:
        with self._lock:
            self._running.pop(key, None)

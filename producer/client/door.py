"""Judge inputs by what workers announced of their graphs, before anything is queued.

Only what LangGraph itself would refuse is refused. Keys that it would ignore are warnings of the receipt. A graph that
no worker announced in the last day is not judged, and neither is a task that goes on with its thread. A worker judges
all inputs once more, those of stock RQ for the first time: LangGraph does, before any node runs.
"""

import time
from collections.abc import Sequence

from redis.exceptions import ResponseError

from langgraph_rq.producer.client.client_log import ClientLog
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import InvalidTaskError
from langgraph_rq.shared.graphs.input import GraphInput
from langgraph_rq.shared.queue.keys import GRAPH_INPUTS
from langgraph_rq.shared.tasks import Task

_KEPT_S = 10.0
"""An announcement is read again after this time, and before an input is refused because of it."""
_KEPT = 1_000
"""Announcements at most."""

_log = ClientLog(__name__)


class Door:
    """Refuses or warns. Any number of threads and coroutines may share it.

    Args:
        connection: To Redis.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._announced: dict[str, tuple[GraphInput, float]] = {}

    async def judge(self, tasks: Sequence[Task]) -> list[tuple[str, ...]]:
        """Return the warnings about each task's input.

        Raises:
            InvalidTaskError: the graph would refuse the input of a task; `position` says of which.
            RedisUnavailableError: Redis cannot be reached.
        """
        await self._read({task.graph for task in tasks if not self._is_known(task.graph)})
        refused = {task.graph for task in tasks if self._of(task).refuse(task.input)}
        await self._read(refused)
        for position, task in enumerate(tasks):
            if task.graph in refused and (violations := self._of(task).refuse(task.input)):
                raise InvalidTaskError(*violations, position=position)
        return [self._warn(task) for task in tasks]

    def _of(self, task: Task) -> GraphInput:
        known = self._announced.get(task.graph)
        return known[0] if known and not task.goes_on else GraphInput()

    def _is_known(self, graph: str) -> bool:
        known = self._announced.get(graph)
        return known is not None and time.monotonic() - known[1] < _KEPT_S

    async def _read(self, graphs: set[str]) -> None:
        if not graphs:
            return
        names = sorted(graphs)
        try:
            (found,) = await self._connection.read(lambda pipeline: pipeline.hmget(GRAPH_INPUTS, names))
        except ResponseError:  # a Redis user of an earlier version may not read it
            found = None
        if len(self._announced) + len(names) > _KEPT:
            self._announced.clear()
        for name, announcement in zip(names, found or [None] * len(names), strict=True):
            self._announced[name] = GraphInput.read(announcement), time.monotonic()

    def _warn(self, task: Task) -> tuple[str, ...]:
        ignored = self._of(task).ignored(task.input)
        if ignored:
            _log.warning("input.ignored", task_id=task.key, graph=task.graph, keys=len(ignored))
        return tuple(ignored)

"""Stop tasks: one that a client cancels, and those that a new task of their thread has superseded."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from langgraph_rq.producer.client.reading.recall import recall_state
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import UnreadableTaskError
from langgraph_rq.shared.queue.answers import Stopped
from langgraph_rq.shared.queue.ending import READS, add_reads, unrun_result
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.audit import Action

REASON_CHARS = 200


class Stops:
    """Stops tasks of one client.

    Args:
        connection: To Redis.
        times: How long ended tasks are kept.
        keys: Sign results; None: they are not signed.
        record: Writes to the audit log.
    """

    def __init__(
        self, connection: Connection, times: QueueTimes, keys: TaskKeys | None, record: Callable[..., Awaitable[None]]
    ) -> None:
        self._connection = connection
        self._times = times
        self._keys = keys
        self._record = record

    async def stop(self, task_id: str, key: str, *, rollback: bool = False, reason: str = "") -> State:
        """Stop a task, as `ClientCore.cancel` describes it. `key` is its id in Redis."""
        (state,) = await self._stop({key: task_id}, rollback=rollback, reason=reason)
        if isinstance(state, ValueError):
            raise UnreadableTaskError(task_id, "state", str(state)) from state
        if isinstance(state, Exception):
            raise state
        if state is None:
            return await recall_state(self._connection, task_id, key)
        await self._record(Action.CANCELLED, key, state=state)
        return State(state)

    async def end_superseded(self, keys: Sequence[str]) -> None:
        """End those of the tasks that no worker runs. They know that they are to stop, and why: nothing hangs on it."""
        for key, state in zip(keys, await self._stop({key: key for key in keys}), strict=True):
            if isinstance(state, State):
                await self._record(Action.CANCELLED, key, state=state)

    async def _stop(self, ids: Mapping[str, str], *, rollback: bool = False, reason: str = "") -> list[Any]:
        """Answer the states in which tasks are now, key -> id, in two round trips; None for each that there is not."""

        def ask(pipeline: Pipeline | AsyncPipeline) -> None:
            for key in ids:
                add_reads(pipeline, key)

        replies, why = await self._connection.read(ask) if ids else [], reason[:REASON_CHARS]
        calls = {}
        for i, (key, task_id) in enumerate(ids.items()):
            read = replies[READS * i : READS * (i + 1)]
            result = unrun_result(task_id, State.CANCELLED, read, reason=why)
            if result is not None:
                signed = self._keys.sign_result(key, result) if self._keys else result
                calls[key] = cancel_call(key, State.CANCELLED, signed, self._times, rollback=rollback, reason=why)
        answers = await self._connection.run(list(calls.values())) if calls else []
        states = {key: one.state if isinstance(one, Stopped) else one for key, one in zip(calls, answers, strict=True)}
        return [states.get(key) for key in ids]

"""Wait for the results of many tasks over their event streams, whichever ends first."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from langgraph_rq.producer.client.client_log import ClientLog
from langgraph_rq.producer.client.reading.lookup import ask_results, read_state
from langgraph_rq.producer.client.reading.recall import recall
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import ForgedResultError, UnknownTaskError, UnreadableTaskError, WaitTimeoutError
from langgraph_rq.shared.queue.events import BEGINNING
from langgraph_rq.shared.queue.keys import events_key
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.audit import Action

_LOOKED_AT = 200
"""Tasks that are looked up in one round trip."""
_WATCHED = 1_000
"""Tasks that are waited for at once. With more, each set of so many has its turn."""
_TURN_S = 1.0
"""Such a turn ends when nothing has happened for so long."""
LOOK_AGAIN_S = 60.0
"""A waiter checks after this time that its task still exists."""


_Problem = UnknownTaskError | UnreadableTaskError | ForgedResultError

_log = ClientLog(__name__)


class Record(Protocol):
    """Writes what was done to tasks to the audit log, if there is one."""

    def __call__(self, action: Action, *keys: str) -> Awaitable[None]:
        """Write it."""
        ...


class Results:
    """The results of one tenant.

    Args:
        connection: To Redis.
        key: Returns the key of a task's id.
        record: Records results that were read.
        check: Returns the document of a task without its signature, or raises ForgedResultError.
    """

    def __init__(
        self,
        connection: Connection,
        key: Callable[[str], str],
        record: Record,
        check: Callable[[str, bytes], bytes],
    ) -> None:
        self._connection = connection
        self._key = key
        self._record = record
        self._check = check

    async def ends(
        self,
        task_ids: Iterable[str],
        timeout_s: float | None,
        *,
        skips_forgotten: bool = False,
        are_new: bool = False,
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield each task's id and result document as it ends, whichever is first.

        With `skips_forgotten` an ended task whose result is forgotten is logged and left out. Tasks that `are_new`,
        just submitted, are not looked at before they are waited for.

        Raises, after the documents of all others:
            UnreadableTaskError, ForgedResultError: a task's state cannot be read, or its result is not signed.
            UnknownTaskError: there is no such task; or, with the `state` in which it ended, its result is forgotten.
            WaitTimeoutError: not all have ended in time.
        """
        problems: list[_Problem] = []
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        pending = list(dict.fromkeys(task_ids))
        places: dict[str, str] = {}
        if are_new:
            places, pending = dict.fromkeys(pending, BEGINNING), []
        for start in range(0, len(pending), _LOOKED_AT):
            documents, seen = await self._look(pending[start : start + _LOOKED_AT], problems)
            places |= seen
            for document in documents.items():
                yield document
        while places:
            watched = {task_id: places.pop(task_id) for task_id in list(islice(places, _WATCHED))}
            longest_s = _TURN_S if places else LOOK_AGAIN_S
            left_s = longest_s if give_up_at is None else min(give_up_at - time.monotonic(), longest_s)
            if left_s <= 0 or self._connection.transport.is_ending:
                raise WaitTimeoutError(next(iter(watched)), len(watched) + len(places))
            documents = await self._await_ends(watched, left_s, problems)
            places |= watched
            for document in documents.items():
                yield document
        forgotten = [problem for problem in problems if isinstance(problem, UnknownTaskError) and problem.state]
        if skips_forgotten:
            for one in forgotten:
                _log.warning("result.forgotten", task_id=one.task_id, state=one.state)
                problems.remove(one)
        if problems:
            raise problems[0]

    async def _await_ends(self, places: dict[str, str], timeout_s: float, problems: list[_Problem]) -> dict[str, bytes]:
        """Wait for events of tasks, and take the tasks that ended out of `places`; answers their results."""
        ids = {events_key(self._key(task_id)): task_id for task_id in places}
        news = await self._connection.transport.ends({key: places[id_] for key, id_ in ids.items()}, timeout_s)
        for key, event in news.items():
            places[ids[key]] = event.id
        # When nothing has happened for a while, the events may have been forgotten before we looked.
        again = [ids[key] for key, event in news.items() if event.is_last] if news else list(places)
        for task_id in again:
            del places[task_id]
        documents, seen = await self._look(again, problems)
        places |= seen
        return documents

    async def _look(self, task_ids: Sequence[str], problems: list[_Problem]) -> tuple[dict[str, bytes], dict[str, str]]:
        """Read the results that are there, and for the others the last event's id, after which to wait.

        What is wrong with a task is added to `problems`.
        """
        keys = [self._key(task_id) for task_id in task_ids]
        replies = await self._connection.read(lambda pipeline: ask_results(pipeline, keys)) if keys else []
        documents: dict[str, bytes] = {}
        places: dict[str, str] = {}
        forgotten: list[str] = []
        for i, task_id in enumerate(task_ids):
            last, state, has_job, document = replies[4 * i : 4 * i + 4]
            if not (document or state or has_job):
                forgotten.append(task_id)
                continue
            try:
                if document:
                    documents[task_id] = self._check(task_id, document)
                    continue
                known = read_state(task_id, state) if state else State.PENDING
            except (UnreadableTaskError, ForgedResultError) as error:
                problems.append(error)
                continue
            if known.is_terminal:
                problems.append(UnknownTaskError(task_id, known))
                continue
            places[task_id] = last[0][0].decode() if last else BEGINNING
        records = await recall(self._connection, [self._key(task_id) for task_id in forgotten])
        problems += [
            UnknownTaskError(task_id, record.state if record else None)
            for task_id, record in zip(forgotten, records, strict=True)
        ]
        await self._record(Action.READ, *map(self._key, documents))
        return documents, places

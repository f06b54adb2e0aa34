"""Wait for the results of many tasks, whichever ends first."""

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from itertools import islice
from typing import Protocol, TypeVar

from langgraph_rq.producer.client.client_log import ClientLog
from langgraph_rq.producer.client.reading.lookup import ask_results, read_state
from langgraph_rq.producer.client.reading.recall import recall
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.producer.client.transport.ends import EndWatch, Told
from langgraph_rq.shared.errors import (
    ForgedResultError,
    InvalidInputError,
    ScriptsMissingError,
    UnknownTaskError,
    UnreadableTaskError,
    Violation,
    WaitTimeoutError,
)
from langgraph_rq.shared.queue.verbs import MOST_AWAITED, await_ends_call
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.audit import Action

_LOOKED_AT = MOST_AWAITED
"""Tasks that are looked up in one round trip."""
LOOK_AGAIN_S = 60.0
"""A waiter checks after this time that its task still exists, and asks again for its end: before `AWAITED_MS`."""
_POLL_S = 1.0
"""The same where Redis tells of no ends."""

_NOTED = 20
"""Problems that are named beside the first one."""

T = TypeVar("T")

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

        One that is raised has the others as notes.
        """
        problems: list[_Problem] = []
        late: list[WaitTimeoutError] = []
        pending = {self._key(task_id): task_id for task_id in task_ids}
        with self._connection.transport.watch(pending) as watch:
            async with aclosing(self._told(pending, watch, timeout_s, late, are_new=are_new)) as tellings:
                async for told in tellings:
                    for part in _parts([(key, document) for key, document in told.items() if key in pending]):
                        documents, still_open = await self._look(dict(part), pending, problems)
                        done = {key: pending.pop(key) for key, _ in part if key not in still_open}
                        for key in done:
                            watch.forget(key)
                        for key, document in documents.items():
                            yield done[key], document
        forgotten = [problem for problem in problems if isinstance(problem, UnknownTaskError) and problem.state]
        if skips_forgotten:
            for one in forgotten:
                _log.warning("result.forgotten", task_id=one.task_id, state=one.state)
                problems.remove(one)
        found: list[Exception] = [*late, *problems]
        if found:
            for other in found[1 : 1 + _NOTED]:
                found[0].add_note(str(other))
            raise found[0]

    async def _told(
        self,
        pending: Mapping[str, str],
        watch: EndWatch,
        timeout_s: float | None,
        late: list[WaitTimeoutError],
        *,
        are_new: bool,
    ) -> AsyncGenerator[Told, None]:
        """Yield the tasks that are to be looked at, until none is `pending` or `late` has the error of the timeout."""
        give_up_at = _instant_in(timeout_s)
        asked_at, ended = time.monotonic(), await self._await_ends(pending, watch.reader)
        yield ended if are_new and ended is not None else {**dict.fromkeys(pending), **(ended or {})}
        while pending:
            now = time.monotonic()
            if (give_up_at is not None and give_up_at <= now) or self._connection.transport.is_ending:
                late.append(WaitTimeoutError(next(iter(pending.values())), len(pending)))
                return
            # From when it was asked: ends that come one after another must not put off asking again.
            until = asked_at + (_POLL_S if ended is None else LOOK_AGAIN_S)
            left_s = (until if give_up_at is None else min(give_up_at, until)) - now
            told = await watch.next(left_s) if left_s > 0 else None
            if told is None:
                asked_at, ended = time.monotonic(), await self._await_ends(pending, watch.reader)
            yield told or {**dict.fromkeys(pending), **(ended or {})}

    async def _await_ends(self, keys: Iterable[str], reader: str) -> Told | None:
        """Ask that the ends of tasks are told from now on; answers those that have ended.

        None: this Redis tells of no ends, because no worker has loaded the script yet, or its users are of an earlier
        version.
        """
        calls = [await_ends_call(part, reader) for part in _parts(keys)]
        try:
            replies = await self._connection.run(calls, awaits_scripts=False) if calls else []
        except ScriptsMissingError:
            return None
        if any(isinstance(reply, Exception) for reply in replies):
            return None
        return {key: document for reply in replies for key, document in reply.items()}

    async def _look(
        self, told: Told, ids: Mapping[str, str], problems: list[_Problem]
    ) -> tuple[dict[str, bytes], set[str]]:
        """Return the results of tasks, by their ids in Redis, read or `told`, and the tasks that have not ended.

        What is wrong with a task is added to `problems`.
        """
        asked = [key for key, document in told.items() if document is None]
        replies = await self._connection.read(lambda pipeline: ask_results(pipeline, asked)) if asked else []
        states = {key: replies[3 * i : 3 * i + 3] for i, key in enumerate(asked)}
        documents: dict[str, bytes] = {}
        still_open: set[str] = set()
        forgotten: list[str] = []
        for key, known_document in told.items():
            state, has_job, document = states.get(key) or (None, None, known_document)
            if not (document or state or has_job):
                forgotten.append(key)
                continue
            try:
                if document:
                    documents[key] = self._check(ids[key], document)
                    continue
                known = read_state(ids[key], state) if state else State.PENDING
            except (UnreadableTaskError, ForgedResultError) as error:
                problems.append(error)
                continue
            if known.is_terminal:
                problems.append(UnknownTaskError(ids[key], known))
            else:
                still_open.add(key)
        records = await recall(self._connection, forgotten)
        problems += [
            UnknownTaskError(ids[key], record.state if record else None)
            for key, record in zip(forgotten, records, strict=True)
        ]
        await self._record(Action.READ, *documents)
        return documents, still_open


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut what is looked up into round trips."""
    rest = iter(items)
    while part := list(islice(rest, _LOOKED_AT)):
        yield part


def _instant_in(timeout_s: float | None) -> float | None:
    """Return the instant, on the monotonic clock, at which a wait is over; None: never."""
    if timeout_s is not None and math.isnan(timeout_s):
        raise InvalidInputError(Violation("timeout_s", "a number of seconds", str(timeout_s)))
    return None if timeout_s is None else time.monotonic() + timeout_s

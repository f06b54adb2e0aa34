"""The task that answers an interrupted one, or continues a failed one, on its thread.

Its id is derived from the interrupts' ids, or from the id of the task that it continues. So the same answer given twice
is one task, another answer to the same question is a conflict, and no lock is needed for either. A question whose
answer was lost (its task was cancelled, timed out or failed) can be answered again: such a task stays as it ended, and
the next id is tried.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from hashlib import sha256
from itertools import count
from typing import Any

from langgraph_rq.producer.client.reading.lookup import Receipt, read_instant
from langgraph_rq.producer.client.reading.recall import recall
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import (
    AlreadyAnsweredError,
    ForgedResultError,
    InvalidTaskError,
    NotContinuableError,
    NotInterruptedError,
    TaskConflictError,
    UnknownTaskError,
    Violation,
)
from langgraph_rq.shared.queue.keys import JOB_TASK, job_hash, task_hash
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.run_fields import MOST_EARLIER, question_digest
from langgraph_rq.shared.signing import SignatureError, TaskKeys
from langgraph_rq.shared.strict_json import kind, read_json
from langgraph_rq.shared.tasks import State, Task, TaskLimits

INTERRUPT = "__interrupt__"
"""The key under which LangGraph puts the pending interrupts of a graph's output: a list of {id, value}."""

_LOST = {State.CANCELLED, State.TIMEOUT, State.ERROR}
"""Ends of a resume task after which its question may be answered again."""


class Answers:
    """Resumes and continues the tasks of one tenant.

    Args:
        connection: To Redis.
        key: Returns the key of a task's id.
        keys: Of signed tasks; None: tasks are not signed.
        limits: The wire contract's.
        submit: Submits tasks.
    """

    def __init__(
        self,
        connection: Connection,
        key: Callable[[str], str],
        keys: TaskKeys | None,
        limits: TaskLimits,
        submit: Callable[[Iterable[Mapping[str, Any]]], Awaitable[Sequence[Receipt]]],
    ) -> None:
        self._connection = connection
        self._key = key
        self._keys = keys
        self._limits = limits
        self._submit = submit

    async def resume(
        self,
        task_id: str,
        result: TaskResult | None,
        answers: Mapping[str, Any] | None,
        value: Any,
        seen: Mapping[str, Any] | None,
    ) -> Receipt:
        """Submit the task that answers. Raises UnknownTaskError, and as `resume_document` and `submit_answer`."""
        data = await self._job_data(task_id)
        if data is None or result is None:
            raise _not_answerable(task_id, await self._find(task_id))
        document = resume_document(task_id, data, result, answers, value, seen, self._limits)
        return await submit_answer(task_id, document, self._find, self._submit)

    async def continue_(self, task_id: str) -> Receipt:
        """Submit the task that continues. Raises as `continue_document` and `submit_answer`."""
        data, found = await self._job_data(task_id), await self._find(task_id)
        document = continue_document(task_id, data, found and found[0], self._limits)
        return await submit_answer(task_id, document, self._find, self._submit)

    async def _job_data(self, task_id: str) -> bytes | None:
        """Read a task as it was submitted. Raises ForgedResultError, when tasks are signed."""
        key = self._key(task_id)
        (fields,) = await self._connection.read(lambda pipeline: pipeline.hmget(job_hash(key), JOB_TASK))
        data: bytes | None = fields and (fields[0] or fields[1])
        if data and self._keys:
            try:
                self._keys.check_task(key, data)
            except SignatureError as error:
                raise ForgedResultError(task_id, str(error)) from None
        return data

    async def _find(self, task_id: str) -> tuple[str, datetime] | None:
        """Read a task's state and when it was submitted; None: it is not known."""
        key = self._key(task_id)
        fields = ("state", "created")
        ((state, created),) = await self._connection.read(lambda pipeline: pipeline.hmget(task_hash(key), *fields))
        if state:
            return state.decode(errors="replace"), read_instant(created or b"")
        (record,) = await recall(self._connection, [key])
        return (record.state, record.created or read_instant(b"")) if record else None


class Missing(Enum):
    """No value given, where None is one."""

    MISSING = 0


MISSING = Missing.MISSING


def _not_answerable(task_id: str, found: tuple[str, datetime] | None) -> NotInterruptedError | UnknownTaskError:
    """Return why a task that has no result, or is not kept, cannot be answered; `found`: what `_find` knows of it."""
    if found and found[0] in {State.PENDING, State.RUNNING}:
        return NotInterruptedError(task_id, found[0])
    return UnknownTaskError(task_id, found and found[0])


def resume_document(
    task_id: str,
    job_data: bytes,
    result: TaskResult,
    answers: Mapping[str, Any] | None,
    value: Any,
    seen: Mapping[str, Any] | None,
    limits: TaskLimits,
) -> dict[str, Any]:
    """Make the task that answers the interrupted one.

    Args:
        task_id: Its id.
        job_data: The interrupted task as it stands in RQ's job.
        result: Its result.
        answers: Interrupt id -> value, for some or all of the pending ones.
        value: Instead, the answer to the only one.
        seen: Interrupt id -> the question to which the answer is, as it stood in the result.
        limits: The wire contract's.

    Raises:
        NotInterruptedError: it ended in another way.
        InvalidTaskError: no answer, or one to a question that was not asked, or that is not the one that was seen.
    """
    if result.status is not State.INTERRUPTED:
        raise NotInterruptedError(task_id, result.status)
    asked = Task.parse(read_json(job_data)[2][0], limits)
    if result.metadata.next:
        if answers is not None or value is not MISSING:
            stopped = f"nothing: the task asks no question, it stopped before {', '.join(result.metadata.next)}"
            raise InvalidTaskError(Violation("value", stopped, "an answer"))
        return _go_on(asked, "resume", input=None, resume=None, command=None, checkpoint_id=None)
    pending = sorted(interrupt["id"] for interrupt in result.result[INTERRUPT])
    if (answers is None) == (value is MISSING):
        expected = "either value, the answer to the one open question, or answers by interrupt id"
        raise InvalidTaskError(Violation("value", expected, "nothing" if answers is None else "both"))
    if answers is None:
        answers = {_only(pending): value}
    unknown = [id_ for id_ in answers if id_ not in pending]
    if unknown or not answers:
        got = ", ".join(unknown) or "nothing"
        raise InvalidTaskError(Violation("answers", f"answers to {', '.join(pending)}", got))
    questions = {interrupt["id"]: interrupt["value"] for interrupt in result.result[INTERRUPT]}
    for id_, question in (seen or {}).items():
        if id_ not in answers or question_digest(questions[id_]) != question_digest(question):
            raise InvalidTaskError(Violation(f"seen.{id_}", "the question that is answered", kind(question)))
    kept = _kept(asked, "input", "resume", "command", "checkpoint_id", "continues")
    return {
        **kept,
        "task_id": f"resume-{sha256(json.dumps(pending).encode()).hexdigest()[:32]}",
        "input": {},
        "resume": {
            "answers": dict(answers),
            "seen": {id_: question_digest(questions[id_]) for id_ in seen} if seen else None,
            "origin": None if asked.thread_id else asked.origin or asked.task_id,
        },
    }


def continue_document(task_id: str, job_data: bytes | None, state: str | None, limits: TaskLimits) -> dict[str, Any]:
    """Make the task that continues a failed one from its last checkpoint; it begins as that one did if there is none.

    Raises:
        UnknownTaskError: the task is not kept any more.
        NotContinuableError: it has not failed.
    """
    if state is None:
        raise UnknownTaskError(task_id)
    if state not in _LOST:
        raise NotContinuableError(task_id, state)
    if job_data is None:
        raise UnknownTaskError(task_id, state)
    return _go_on(Task.parse(read_json(job_data)[2][0], limits), "continue")


def _go_on(asked: Task, verb: str, **changed: Any) -> dict[str, Any]:
    earlier = asked.continues.tasks[:MOST_EARLIER] if asked.continues else ()
    continues = {
        "task_id": asked.task_id,
        "earlier": earlier,
        "origin": None if asked.thread_id else asked.origin or asked.task_id,
    }
    id_ = f"{verb}-{sha256(asked.key.encode()).hexdigest()[:32]}"
    return {**_kept(asked), **changed, "task_id": id_, "continues": continues}


def _kept(asked: Task, *left_out: str) -> dict[str, Any]:
    """Return what the next task has in common with the one before it."""
    return asked.model_dump(
        exclude={"schema_version", "task_id", "traceparent", "submitted_at", "run_at", "delay_s", *left_out}
    )


async def submit_answer(
    asked: str,
    document: dict[str, Any],
    find: Callable[[str], Awaitable[tuple[str, datetime] | None]],
    submit: Callable[[Iterable[Mapping[str, Any]]], Awaitable[Sequence[Receipt]]],
) -> Receipt:
    """Submit the task of `resume_document`, under the first id whose task has not lost its answer.

    A lost answer stays lost and each id is taken by one task, so that any number of callers come to the same one.

    Args:
        asked: The interrupted task.
        document: The task that answers it.
        find: Returns the state of a task and when it was submitted; None: it is not known.
        submit: Submits tasks.

    Raises:
        AlreadyAnsweredError: another answer was given, and is not lost.
    """
    lost: list[str] = []
    for number in count(1):
        id_ = document["task_id"] if number == 1 else f"{document['task_id']}-{number}"
        found = await find(id_)
        if found and found[0] in _LOST:
            lost.insert(0, id_)
            continue
        try:
            (receipt,) = await submit([{**_after(document, lost), "task_id": id_}])
        except TaskConflictError as other:
            if other.state in _LOST:
                continue
            found = await find(id_)
            raise AlreadyAnsweredError(asked, id_, found and found[1], other.state) from None
        if receipt.created or receipt.state not in _LOST:
            return receipt
    raise AssertionError("ids do not end")


def _after(document: dict[str, Any], lost: Sequence[str]) -> dict[str, Any]:
    """Let a task that continues another one go on from the checkpoints of those that tried that before, too."""
    continues = document.get("continues")
    if not (continues and lost):
        return document
    return {**document, "continues": {**continues, "earlier": (*lost, *continues["earlier"])[:MOST_EARLIER]}}


def _only(pending: list[str]) -> str:
    if len(pending) > 1:
        raise InvalidTaskError(Violation("value", f"answers by interrupt id, to {', '.join(pending)}", "one value"))
    return pending[0]

"""The task that answers an interrupted one and continues its thread.

Its id is derived from the interrupts' ids. So the same answer given twice is one task, another answer to the same
question is a conflict, and no lock is needed for either. A question whose answer was lost (its task was cancelled,
timed out or failed) can be answered again: such a task stays as it ended, and the next id is tried.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from hashlib import sha256
from itertools import count
from typing import Any

from langgraph_rq.producer.client.lookup import Receipt
from langgraph_rq.shared.errors import (
    AlreadyAnsweredError,
    InvalidTaskError,
    NotInterruptedError,
    TaskConflictError,
    UnknownTaskError,
    Violation,
)
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.strict_json import kind, read_json
from langgraph_rq.shared.tasks import State, Task, TaskLimits, question_digest

INTERRUPT = "__interrupt__"
"""The key under which LangGraph puts the pending interrupts of a graph's output: a list of {id, value}."""


_LOST = {State.CANCELLED, State.TIMEOUT, State.ERROR}
"""Ends of a resume task after which its question may be answered again."""


class Missing(Enum):
    """No value given, where None is one."""

    MISSING = 0


MISSING = Missing.MISSING


def resume_document(
    task_id: str,
    job_data: bytes | None,
    result: TaskResult | None,
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
        UnknownTaskError: the task, or its result, is not kept any more.
        NotInterruptedError: it ended in another way.
        InvalidTaskError: no answer, or one to a question that was not asked, or that is not the one that was seen.
    """
    if job_data is None or result is None:
        raise UnknownTaskError(task_id)
    if result.status is not State.INTERRUPTED:
        raise NotInterruptedError(task_id, result.status)
    asked = Task.parse(read_json(job_data)[2][0], limits)
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
    kept = asked.model_dump(exclude={"schema_version", "task_id", "input", "resume", "traceparent", "submitted_at"})
    earlier = asked.resume.origin if asked.resume else None
    return {
        **kept,
        "task_id": f"resume-{sha256(json.dumps(pending).encode()).hexdigest()[:32]}",
        "input": {},
        "resume": {
            "answers": dict(answers),
            "seen": {id_: question_digest(questions[id_]) for id_ in seen} if seen else None,
            "origin": None if asked.thread_id else earlier or asked.task_id,
        },
    }


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
    for number in count(1):
        id_ = document["task_id"] if number == 1 else f"{document['task_id']}-{number}"
        found = await find(id_)
        if found and found[0] in _LOST:
            continue
        try:
            (receipt,) = await submit([{**document, "task_id": id_}])
        except TaskConflictError as other:
            if other.state in _LOST:
                continue
            found = await find(id_)
            raise AlreadyAnsweredError(asked, id_, found and found[1], other.state) from None
        if receipt.created or receipt.state not in _LOST:
            return receipt
    raise AssertionError("ids do not end")


def _only(pending: list[str]) -> str:
    if len(pending) > 1:
        raise InvalidTaskError(Violation("value", f"answers by interrupt id, to {', '.join(pending)}", "one value"))
    return pending[0]

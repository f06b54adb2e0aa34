"""Resume after an interrupt: choose the answers that the thread still lacks, by its newest checkpoint.

A resume task may run twice (its worker was killed, or released it), too late (another task continued the thread), or
after an earlier resume task that did not get to its end. When a stored answer is given again under the id of the node's
first question, LangGraph takes it as the answer to the node's second question. So the answers are compared with the
pending questions and the stored answers before a run, and a mark beside the checkpoint says which tasks have begun to
answer there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.types import Command, StateSnapshot
from xxhash import xxh3_128_hexdigest

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.run_fields import question_digest
from langgraph_rq.shared.tasks import Resume, State, Task, task_key
from langgraph_rq.worker.outputs.json_values import as_json
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.task.result import INTERRUPT, Result

COMMAND = "00000000-0000-0000-0000-000000000000"
"""LangGraph's id of what writes a command's update and its plain answer."""
_RESUME = "__resume__"
"""The channel in which LangGraph stores a node's answers."""
_BEGUN = "langgraph_rq_begun"
"""The channel of our mark: the ids that are answered. LangGraph ignores writes of what is no node of the step."""
_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that a node has taken, among all that are stored of the node.

    Args:
        config: Of the checkpoint that it is stored beside.
        node: LangGraph's id of the node's run.
        answers: Of the node's questions, in order.
        position: Of this one.
    """

    config: RunnableConfig
    node: str
    answers: list[Any]
    position: int

    def is_same(self, answer: Any) -> bool:
        """Whether it is the same JSON value; True is not 1."""
        stored = self.answers[self.position]
        return json.dumps(stored, sort_keys=True, default=str) == json.dumps(answer, sort_keys=True, default=str)


async def start_resume(
    checkpointer: BaseCheckpointSaver[str],
    state: StateSnapshot,
    last: CheckpointTuple | None,
    task: Task,
    resume: Resume,
    redaction: Redaction | None = None,
) -> "Command[str] | Result | None":
    """Choose the input of a resume task, and prepare the thread for it.

    Args:
        checkpointer: Of the thread.
        state: The newest of the thread, with its subgraphs, left by another task.
        last: The checkpoint of that state.
        task: The resume task.
        resume: Its answers.
        redaction: Of the results in which questions are shown.

    Returns:
        A command with the answers that are not stored yet; None to continue with those that are; or the task's end.
    """
    if resume.seen and (other := await _other_questions(state, resume.seen, redaction)):
        return other
    kept = await kept_answers(checkpointer, state)
    mark = _mark(task.key)
    has_begun = any(writer == mark for writer, _, _ in (last and last.pending_writes) or ())
    chosen = choose_answers(state, resume, kept, has_begun=has_begun)
    if isinstance(chosen, Result):
        return chosen
    pending = {interrupt.id for interrupt in state.interrupts}
    for id_, answer in resume.answers.items():
        if id_ in pending and id_ in kept and not kept[id_].is_same(answer):
            await _replace(checkpointer, kept[id_], answer)
    if not has_begun:
        await checkpointer.aput_writes(state.config, [(_BEGUN, list(resume.answers))], mark)
    await _forget_plain(checkpointer, state, last)
    return chosen


async def start_plain(
    checkpointer: BaseCheckpointSaver[str], state: StateSnapshot, last: CheckpointTuple | None, task: Task, answer: Any
) -> Any:
    """Prepare the thread for an answer that LangGraph gives to the next node that asks.

    Args:
        checkpointer: Of the thread.
        state: As `start_resume`.
        last: The checkpoint of that state.
        task: The task that answers.
        answer: Of its command.

    Returns:
        The answer; None if a node has taken it from an earlier attempt.
    """
    asked = [one.id for one in state.interrupts]
    await checkpointer.aput_writes(state.config, [(_BEGUN, asked)], _mark(task.key))
    if begun_answers(last, task) is None:
        return answer
    kept = await kept_answers(checkpointer, state)
    if not any(one.is_same(answer) for one in kept.values()):
        return answer
    await _forget_plain(checkpointer, state, last)
    return None


async def _forget_plain(
    checkpointer: BaseCheckpointSaver[str], state: StateSnapshot, last: CheckpointTuple | None
) -> None:
    """Take back a plain answer that LangGraph has saved: it would give it to each further question of the step, too."""
    saved = (last and last.pending_writes) or ()
    if any(writer == COMMAND and channel == _RESUME and value is not None for writer, channel, value in saved):
        await checkpointer.aput_writes(state.config, [(_RESUME, None)], COMMAND)


def begun_answers(last: CheckpointTuple | None, task: Task) -> list[str] | None:
    """Return the interrupts that an earlier attempt of `task` has begun to answer at the checkpoint `last`.

    That of a task that it continues counts, too. Empty: it has left the answer to LangGraph where none was pending.
    None: there is no such attempt.
    """
    earlier = task.continues.tasks if task.continues else ()
    marks = [_mark(task.key), *(_mark(task_key(id_, task.tenant)) for id_ in earlier)]
    saved: dict[str, Any] = {writer: value for writer, _, value in (last and last.pending_writes) or ()}
    found = next((saved[mark] for mark in marks if mark in saved), None)
    return found if isinstance(found, list) else None


def is_asked_anew(state: StateSnapshot) -> bool:
    """Whether a question is in a subgraph whose state was updated, or copied, since it was asked.

    That began its nodes anew, under other ids; LangGraph lists the old ones until they have run.
    """
    return any(_is_begun_anew(task.state) for task in state.tasks if task.interrupts)


def _is_begun_anew(inner: Any) -> bool:
    if not isinstance(inner, StateSnapshot) or not inner.next:
        return False
    is_updated = (inner.metadata or {}).get("source") in {"update", "fork"} and not inner.interrupts
    return is_updated or is_asked_anew(inner)


def is_by_id(resume: Any) -> bool:
    """Whether LangGraph takes a command's answer as an object of interrupt id -> answer."""
    return isinstance(resume, dict) and bool(resume) and all(_ID.fullmatch(key) for key in resume)


def is_answering(last: CheckpointTuple, tasks: Iterable[str]) -> bool:
    """Whether one of the tasks, by their ids in Redis, has begun to answer at the checkpoint `last`."""
    marks = {*map(_mark, tasks)}
    return any(writer in marks for writer, _, _ in last.pending_writes or ())


def _mark(task: str) -> str:
    return str(uuid5(NAMESPACE_OID, task))


def choose_answers(
    state: StateSnapshot, resume: Resume, kept: Mapping[str, KeptAnswer], *, has_begun: bool
) -> "Command[str] | Result | None":
    """Choose the input of a resume task.

    Args:
        state: As `start_resume`.
        resume: The answers.
        kept: From `kept_answers`.
        has_begun: Whether an earlier attempt of this task has begun to answer at this checkpoint, so that what is not
            pending may be answered and used.

    Returns:
        As `start_resume`. The end is `interrupted` when another question is pending by now, and an error when none is.
    """
    pending = {interrupt.id: interrupt for interrupt in state.interrupts}
    asked = {id_: answer for id_, answer in resume.answers.items() if id_ in pending}
    used = {id_ for id_, answer in resume.answers.items() if id_ in kept and kept[id_].is_same(answer)}
    is_late = not has_begun and bool(resume.answers.keys() - asked.keys() - used)
    if pending and (is_late or not asked):
        return Result(State.INTERRUPTED, {INTERRUPT: list(pending.values())})
    if is_late:
        gone_on = "the thread has gone on: this question is not pending any more"
        return Result(State.ERROR, error=(ErrorType.REJECTED, gone_on))
    missing = {id_: answer for id_, answer in asked.items() if id_ not in kept}
    return Command(resume=missing) if missing else None


async def kept_answers(
    checkpointer: BaseCheckpointSaver[str], state: StateSnapshot, namespace: str = ""
) -> dict[str, KeptAnswer]:
    """Return the stored answers by interrupt id, of the graph and its subgraphs.

    An id is LangGraph's hash of the node's namespace and, from its second question on, of the question's position.
    """
    found: dict[str, KeptAnswer] = {}
    saved = await checkpointer.aget_tuple(state.config)
    answers = {node: value for node, channel, value in (saved and saved.pending_writes) or () if channel == _RESUME}
    for task in state.tasks:
        own = f"{namespace}|{task.name}:{task.id}".removeprefix("|")
        given = answers.get(task.id, [])
        for position in range(len(given)):
            id_ = xxh3_128_hexdigest((f"{own}|{position}" if position else own).encode())
            found[id_] = KeptAnswer(state.config, task.id, given, position)
        if isinstance(task.state, StateSnapshot):
            found |= await kept_answers(checkpointer, task.state, own)
    return found


async def _other_questions(state: StateSnapshot, seen: Mapping[str, str], redaction: Redaction | None) -> Result | None:
    """Return the pending questions as the task's end if one of them is not the one that was seen under its id."""
    pending = Result(State.INTERRUPTED, {INTERRUPT: list(state.interrupts)})
    shown = await redaction.result(pending) if redaction else pending
    if shown.state is not State.INTERRUPTED:
        return shown
    questions = as_json(shown.output)[INTERRUPT]
    if all(seen.get(one["id"], now) == now for one in questions for now in [question_digest(one["value"])]):
        return None
    return pending


async def _replace(checkpointer: BaseCheckpointSaver[str], kept: KeptAnswer, answer: Any) -> None:
    """Store another answer than that of a resume task that has ended without using it to the end."""
    answers = [*kept.answers[: kept.position], answer]
    await checkpointer.aput_writes(kept.config, [(_RESUME, answers)], kept.node)

"""Resume after an interrupt: choose the answers that are still pending, by the thread's checkpoint.

A resume task may run twice (its worker was killed, or released it) or too late (another task continued the thread).
When a stored answer is given again under the id of the node's first question, LangGraph takes it as the answer to the
node's second question. So the answers are compared with the pending questions and the stored answers before a run.
"""

from collections.abc import Collection

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command, StateSnapshot
from xxhash import xxh3_128_hexdigest

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import Resume, State
from langgraph_rq.worker.task.result import INTERRUPT, Result

_RESUME = "__resume__"
"""The channel in which LangGraph stores a node's answers."""


def resume_first(state: StateSnapshot, resume: Resume) -> "Command[str] | Result":
    """Choose the input of a resume task's first attempt.

    Args:
        state: The newest of the thread, left by another task.
        resume: The answers.

    Returns:
        A command with the answers; or the task's end: `interrupted` when another question is pending by now, an error
        when none is.
    """
    pending = {interrupt.id: interrupt for interrupt in state.interrupts}
    if resume.answers.keys() <= pending.keys():
        return Command(resume=resume.answers)
    if pending:
        return Result(State.INTERRUPTED, {INTERRUPT: list(pending.values())})
    return Result(
        State.ERROR, error=(ErrorType.REJECTED, "the thread has gone on: this question is not pending any more")
    )


def resume_again(state: StateSnapshot, resume: Resume, kept: Collection[str]) -> "Command[str] | Result | None":
    """Choose the input of a resume task whose earlier attempt was cut off.

    Args:
        state: As `resume_first`, with its subgraphs.
        resume: The answers.
        kept: From `kept_answers`.

    Returns:
        A command with the answers that are not stored yet; None to continue with those that are; or the task's end,
        when the earlier attempt reached another question.
    """
    pending = {interrupt.id: interrupt for interrupt in state.interrupts}
    asked = {id_: answer for id_, answer in resume.answers.items() if id_ in pending}
    missing = {id_: answer for id_, answer in asked.items() if id_ not in kept}
    if missing:
        return Command(resume=missing)
    if pending and not asked:
        return Result(State.INTERRUPTED, {INTERRUPT: list(pending.values())})
    return None


async def kept_answers(checkpointer: BaseCheckpointSaver[str], state: StateSnapshot, namespace: str = "") -> set[str]:
    """Return the ids of the nodes' first questions whose answers are stored, in the graph and its subgraphs.

    An id is LangGraph's hash of the node's namespace; later questions of a node have other ids.
    """
    found: set[str] = set()
    saved = await checkpointer.aget_tuple(state.config)
    answered = {task_id for task_id, channel, _ in (saved and saved.pending_writes) or () if channel == _RESUME}
    for task in state.tasks:
        own = f"{namespace}|{task.name}:{task.id}".removeprefix("|")
        if task.id in answered:
            found.add(xxh3_128_hexdigest(own.encode()))
        if isinstance(task.state, StateSnapshot):
            found |= await kept_answers(checkpointer, task.state, own)
    return found

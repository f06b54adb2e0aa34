"""Go on after an interrupt: which answers are still asked for, decided by what the thread's checkpoint says.

A resume task may run twice (its worker was killed, or handed it back) or too late (the thread went on without it).
LangGraph takes an answer that it has kept already, given again under the id of the node's first question, for the
answer to the node's second one. So nothing runs before the answers have been compared with what is asked and kept now.
"""

from collections.abc import Collection

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command, StateSnapshot
from xxhash import xxh3_128_hexdigest

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import Resume, State
from langgraph_rq.worker.task.result import INTERRUPT, Result

_RESUME = "__resume__"
"""The channel in which LangGraph keeps the answers that a node has got."""


def resume_first(state: StateSnapshot, resume: Resume) -> "Command[str] | Result":
    """Say how a resume task begins, `state` being the newest of its thread, which another task left.

    Returns:
        A command with the answers; or the task's end: `interrupted` when another question is open by now, an error
        when none is.
    """
    pending = {interrupt.id: interrupt for interrupt in state.interrupts}
    if resume.answers.keys() <= pending.keys():
        return Command(resume=resume.answers)
    if pending:
        return Result(State.INTERRUPTED, {INTERRUPT: list(pending.values())})
    return Result(
        State.ERROR, error=(ErrorType.REJECTED, "the thread has gone on: this question is not asked any more")
    )


def resume_again(state: StateSnapshot, resume: Resume, kept: Collection[str]) -> "Command[str] | Result | None":
    """Say how a resume task goes on whose earlier attempt was cut off.

    Args:
        state: As `resume_first`, with its subgraphs.
        resume: The answers.
        kept: From `kept_answers`.

    Returns:
        A command with the answers that were not taken yet; None to go on with those that were; or, when the earlier
        attempt had come to another question, the task's end.
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
    """Name the nodes' first questions whose answers are kept, in the graph and its subgraphs.

    An id is LangGraph's hash of the node's namespace; those of later questions are other ones, and never mistaken.
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

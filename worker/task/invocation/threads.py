"""What new input finds on its thread: tool calls without an answer, and a question that it drops.

A thread whose last task was cancelled, timed out or failed in the middle of a tool call ends with tool calls that have
no answer, and every provider refuses a message after those. So the next task first adds an answer to each: that the
tool was not run.

A task that runs with new input on a thread that shows a question drops it, as in LangGraph, and both results say so.
The dropping task's attempt records it before its graph starts, so that a later attempt knows it; the result of the task
that asked, which has ended, is written again when the dropping task ends.
"""

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.checkpoint.base import CheckpointTuple
from redis.exceptions import RedisError

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.attempts import drop_question_call
from langgraph_rq.shared.queue.keys import result_key
from langgraph_rq.shared.signing import SignatureError, unsigned_result
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.result import INTERRUPT

NOT_RUN = "This tool call was cancelled before it had a result."

_log = get_logger(__name__)


def unanswered(messages: Sequence[Any]) -> list[ToolMessage]:
    """Make an answer to each unanswered tool call at the end of `messages`."""
    answered = set()
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
        elif isinstance(message, AIMessage):
            return [
                ToolMessage(NOT_RUN, tool_call_id=call["id"], name=call["name"], status="error")
                for call in message.tool_calls
                if call["id"] not in answered
            ]
        else:
            break
    return []


def continue_thread(values: dict[str, Any], task_input: Any) -> Any:
    """Add the missing answers in front of a task's own messages.

    Args:
        values: The thread's state, by channel.
        task_input: The task's input; one without `messages` is returned unchanged.
    """
    messages = values.get("messages")
    if not isinstance(task_input, dict) or "messages" not in task_input or not isinstance(messages, list):
        return task_input
    missing: list[BaseMessage] = [*unanswered(messages)]
    if not missing:
        return task_input
    given = task_input["messages"]
    return {**task_input, "messages": [*missing, *(given if isinstance(given, list) else [given])]}


async def find_dropped(attempt: Attempt, task: Task, last: CheckpointTuple | None) -> str | None:
    """Return the task, by its id in Redis, whose question this attempt drops or an earlier one dropped.

    Args:
        attempt: It is about to run the graph.
        task: Its task.
        last: The thread's newest checkpoint.
    """
    if task.thread_id is None or task.goes_on or last is None:
        return None
    is_own = last.metadata.get("task_id") == task.key
    drops = not is_own and any(channel == INTERRUPT for _, channel, _ in last.pending_writes or ())
    if not drops and attempt.epoch == 1:
        return None
    call = drop_question_call(task.key, attempt.epoch, attempt.worker, task.thread_key, drops=drops)
    return await scripts.run(attempt.context.redis, call) or None


async def note_dropped(attempt: Attempt, task: Task, asked: str) -> None:
    """Write into the result of the task that asked, if it is still kept, that this task dropped its question.

    Only a note: an outage must not make the task run again, nor a document that cannot be read.
    """
    try:
        await _note(attempt, task, asked)
    except (SignatureError, ValueError, RedisError, OSError) as error:
        _log.warning("question.not_noted", asked=asked, reason=str(error))


async def _note(attempt: Attempt, task: Task, asked: str) -> None:
    redis, keys, key = attempt.context.redis, attempt.context.keys, result_key(asked)
    found: Any = await redis.get(key)
    if not found:
        return
    document: Any = read_json(keys.check_result(asked, found) if keys else unsigned_result(found))
    if not isinstance(document, dict) or document.get("status") != State.INTERRUPTED:
        return
    document["metadata"] = {**document["metadata"], "question_dropped_by": task.task_id}
    written = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    await redis.set(key, keys.sign_result(asked, written) if keys else written, xx=True, keepttl=True)

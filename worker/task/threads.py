"""Repair a thread whose last task was cancelled, timed out or failed in the middle of a tool call.

Such a thread ends with tool calls that have no answer, and every provider refuses a message after those. So the next
task first adds an answer to each: that the tool was not run.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

NOT_RUN = "This tool call was cancelled before it had a result."


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

"""Keep a thread usable after a task on it was cancelled, timed out or failed in the middle of a tool call.

Such a thread ends with a model's request for tools that nobody will answer, and every provider refuses the next message
after that. So the next task first says, on behalf of the tools, that they were not run.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

NOT_RUN = "This tool call was cancelled before it had a result."


def unanswered(messages: Sequence[Any]) -> list[ToolMessage]:
    """Answer the tool calls at the end of `messages` that have no answer; none where there are no such calls."""
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


def continue_thread(values: dict[str, Any], task_input: dict[str, Any]) -> dict[str, Any]:
    """Put the missing answers before a task's own messages.

    Args:
        values: The thread's state, by channel.
        task_input: What the task starts with; one without `messages` is left as it is.
    """
    messages = values.get("messages")
    if "messages" not in task_input or not isinstance(messages, list):
        return task_input
    missing: list[BaseMessage] = [*unanswered(messages)]
    if not missing:
        return task_input
    given = task_input["messages"]
    return {**task_input, "messages": [*missing, *(given if isinstance(given, list) else [given])]}

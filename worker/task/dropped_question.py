"""A question that is dropped, as in LangGraph: a task runs with new input on a thread that shows it.

Both results say so. The dropping task's attempt records it before its graph starts, so that a later attempt knows it;
the result of the task that asked, which has ended, is written again when the dropping task ends.
"""

import json
from typing import Any

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

_log = get_logger(__name__)


async def find_dropped(attempt: Attempt, task: Task, last: CheckpointTuple | None) -> str | None:
    """Return the task, by its id in Redis, whose question this attempt drops or an earlier one dropped.

    Args:
        attempt: It is about to run the graph.
        task: Its task.
        last: The thread's newest checkpoint.
    """
    if task.thread_id is None or task.resume or last is None:
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

"""Read a claimed job: a task of the producer, or a job that stock RQ enqueued. Anything else is rejected.

RQ imports any function that a job names, calls its callbacks and posts to its webhooks. This worker runs one function,
and rejects a job that asks for more, with the reason.
"""

import zlib
from datetime import timedelta
from typing import Any

from langgraph_rq.shared.errors import InvalidTaskError
from langgraph_rq.shared.queue.answers import Claimed, Origin
from langgraph_rq.shared.queue.attempts import Kept
from langgraph_rq.shared.queue.keys import side_queue
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.schema import SCHEMA
from langgraph_rq.shared.signing import Refused, SignatureError, TaskKeys
from langgraph_rq.shared.strict_json import kind, read_json
from langgraph_rq.shared.tasks import FUNCTION, FUNCTIONS, State, Task, TaskLimits

_INPUT_LIMIT = "by LGRQ_INPUT_BYTES"
_SKEW_S = 60.0
"""How far the clocks of producers and Redis may be apart."""
_RQ_TIMEOUT_S = 180
"""Of a job whose client set none; RQ writes it all the same."""
_PICKLE = b"\x80"
_ZLIB = b"\x78"


class RejectedJobError(Exception):
    """The job is no valid task; the message is the reason."""


class UnsignedJobError(RejectedJobError):
    """The task carries no signature of its tenant that holds."""

    def __init__(self, reason: Refused, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NewerSchemaError(Exception):
    """The task has a newer schema, which a newer worker can run."""


def job_text(claimed: Claimed, limits: TaskLimits) -> bytes:
    """Return the JSON text of a claimed job. Raises RejectedJobError: it has none that may be read."""
    if claimed.origin is Origin.MALFORMED:
        raise RejectedJobError("expected rq:job to be a hash, got another type")
    if claimed.origin is Origin.TOO_LONG:
        raise RejectedJobError(f"expected job data of at most {limits.job_bytes:,} bytes ({_INPUT_LIMIT}), got more")
    if claimed.acting_fields:
        fields = ", ".join(claimed.acting_fields)
        raise RejectedJobError(f"callbacks, dependencies, retries and webhooks are not run here, got: {fields}")
    return _inflate(claimed.data, limits.text_bytes)


def read_job(claimed: Claimed, text: bytes, base_queue: str, limits: TaskLimits, keys: TaskKeys | None = None) -> Task:
    """Read the task out of the text of a claimed job; with `keys` only one that is signed.

    Raises:
        UnsignedJobError: its signature is missing or does not hold, or its deadline was over when it was claimed: what
            is kept of a signed task cannot be queued again later.
        RejectedJobError: it is no task, names another function, or breaks the contract.
        NewerSchemaError: its schema is newer than this worker's.
    """
    if keys:
        _check_signature(claimed, text, keys)
    document = _arguments(text)
    if isinstance(document.get("schema"), int) and document["schema"] > SCHEMA:
        raise NewerSchemaError
    if claimed.origin is Origin.ENQUEUED:
        document = {"task_id": claimed.id, **document}
    try:
        task = Task.parse(document, limits)
    except InvalidTaskError as error:
        raise RejectedJobError(str(error)) from None
    if claimed.origin is Origin.ENQUEUED and claimed.options.timeout:
        task = _within_timeout(task, _seconds("job_timeout", claimed.options.timeout, limits.deadline_s))
    if task.key != claimed.id:
        raise RejectedJobError(f"expected the job id to be the task id {task.key}, got: {claimed.id}")
    queue = task.priority.queue(base_queue)
    if "priority" in task.model_fields_set and claimed.queue not in {queue, side_queue(queue, task.graph)}:
        raise RejectedJobError(f"expected priority {task.priority} on its own queue, got: {claimed.queue}")
    if keys:
        _check_age(claimed, task)
    return task


def kept_times(claimed: Claimed, times: QueueTimes) -> Kept:
    """Return how long the result is kept of a job that stock RQ enqueued. Raises RejectedJobError."""

    def kept_ms(name: str, value: str, state: State) -> int:
        return 1000 * _seconds(name, value, times.window_ms / 1000) if value else times.kept_ms(state)

    options = claimed.options
    return Kept(
        kept_ms("result_ttl", options.result_ttl, State.SUCCESS),
        kept_ms("failure_ttl", options.failure_ttl, State.ERROR),
    )


def _within_timeout(task: Task, timeout_s: int) -> Task:
    """Let RQ's timeout be the deadline; where the task names one too, the shorter, but for RQ's default."""
    is_named = "deadline_s" in task.model_fields_set
    if is_named and (timeout_s == _RQ_TIMEOUT_S or timeout_s >= task.deadline_s):
        return task
    return task.model_copy(update={"deadline_s": float(timeout_s)})


def _seconds(name: str, value: str, most_s: float) -> int:
    """Read an option of RQ. Raises RejectedJobError for what is not done here, such as -1, for ever."""
    seconds = int(value) if value.isdecimal() and value.isascii() else 0
    if not 1 <= seconds <= most_s:
        raise RejectedJobError(f"{name}: expected 1 to {most_s:,.0f} seconds, got: {value}")
    return seconds


def _check_signature(claimed: Claimed, text: bytes, keys: TaskKeys) -> None:
    try:
        keys.check_task(claimed.id, text)
    except SignatureError as error:
        raise UnsignedJobError(error.reason, f"{error}; submit it by a langgraph_rq client that has a key") from None


def _check_age(claimed: Claimed, task: Task) -> None:
    """Refuse a task that was submitted long ago and queued again since; one that waited for long ends as `timeout`."""
    is_late = claimed.deadline_at_ms <= claimed.claimed_at_ms
    until = max(task.starts_at, task.submitted_at) + timedelta(seconds=task.deadline_s)
    if not is_late and until.timestamp() + _SKEW_S < claimed.claimed_at_ms / 1000:
        message = (
            f"signature: expected a task before its deadline at {until.isoformat(timespec='seconds')}, got: it later"
        )
        raise UnsignedJobError(Refused.EXPIRED, message)


def _inflate(data: bytes, most_bytes: int) -> bytes:
    """Undo RQ's optional compression, with a limit on the output."""
    if not data.startswith(_ZLIB):
        return data
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, most_bytes + 1)
    except zlib.error as error:
        raise RejectedJobError(f"the job's data cannot be decompressed: {error}") from None
    if len(inflated) > most_bytes:
        raise RejectedJobError(f"expected job data of at most {most_bytes:,} bytes inflated ({_INPUT_LIMIT}), got more")
    return inflated


def _arguments(data: bytes) -> dict[str, Any]:
    """Return the one argument of RQ's [function, instance, args, kwargs]."""
    if data.startswith(_PICKLE):
        raise RejectedJobError("expected JSON, got a pickle: enqueue with serializer=rq.serializers.JSONSerializer")
    try:
        job = read_json(data)
    except ValueError as error:
        raise RejectedJobError(f"expected JSON, got: {error}") from None
    if not isinstance(job, list) or len(job) != 4:
        raise RejectedJobError(f"expected [function, instance, args, kwargs], got: {kind(job)}")
    function, instance, args, kwargs = job
    if function not in FUNCTIONS or instance is not None:
        raise RejectedJobError(f"expected the function {FUNCTION}, got: {kind(function)}")
    if not isinstance(args, list) or len(args) != 1 or (kwargs and kwargs.keys() != {"signature"}):
        raise RejectedJobError(f"expected one argument, the task, got: {kind(args)} and {kind(kwargs)}")
    if not isinstance(args[0], dict):
        raise RejectedJobError(f"expected the task to be a JSON object, got: {kind(args[0])}")
    return args[0]

"""Submit tasks from any Python service, look them up by id, and wait for their results without polling.

Example:
    client = Client("redis://localhost:6379/0")
    task = client.submit({"query": "What is a lease?"}, user_id="ann")
    print(client.wait(task.task_id, timeout_s=60).result["answer"])
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared import lua
from shared.errors import (
    QueueFullError,
    RedisUnavailableError,
    TaskConflictError,
    UnknownGraphError,
    UnknownTaskError,
    WaitTimeoutError,
)
from shared.redis_clients import open_sync
from shared.settings import QueueSettings, RedisSettings, TaskSettings, load, mask_url
from shared.task_queue import Submission, Submitted, events_key, job_hash, result_key, submit_call, task_hash
from shared.tasks import State, Task, TaskResult

_BLOCK_MS = 5_000
_WATCHED = 100
"""Results waited for at once; the others are found when their turn comes."""
_SUBMIT_BATCH = 200
_ATTEMPT_WAITS_S = (0.05, 0.3)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A task that is on the queue; `created` is False when it was known already under its id."""

    task_id: str
    state: State
    created: bool


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Where a task is. `attempts` counts the workers that started it."""

    task_id: str
    state: State
    queue: str
    attempts: int
    submitted_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    worker: str | None


class Client:
    """A synchronous client; safe to share between threads and across forks.

    Args:
        redis_url: None reads REDIS_URL, as every part of the system does.
        queue, tasks: The settings that workers and producers must agree on; None reads them from the environment.
    """

    def __init__(
        self, redis_url: str | None = None, *, queue: QueueSettings | None = None, tasks: TaskSettings | None = None
    ) -> None:
        settings = load(RedisSettings, redis_url=redis_url)
        self._url = settings.redis_url.get_secret_value()
        self._queue = queue or load(QueueSettings)
        self._limits = (tasks or load(TaskSettings)).limits()
        self._times = self._queue.times(self._limits.input_bytes)
        self._redis = open_sync(self._url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
        self._waiting = open_sync(self._url, connections=settings.redis_connections, timeout_s=2 * _BLOCK_MS / 1000)

    def submit(self, input: Mapping[str, Any], **fields: Any) -> Receipt:  # noqa: A002 - the contract's word
        """Put one task on the queue. `fields` are those of `shared.tasks.Task`: graph, task_id, user_id, thread_id, ...

        The same `task_id` again answers with the task that is there; it runs once.

        Raises:
            InvalidTaskError: a field breaks the contract; nothing was queued.
            TaskConflictError: another task is known under this id.
            UnknownGraphError: no live worker serves the graph.
            QueueFullError: Redis is nearly full.
            RedisUnavailableError: Redis cannot be reached. The task may be queued; submit it again under its id.
        """
        return self.submit_many([{"input": input, **fields}])[0]

    def submit_many(self, documents: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Put many tasks on the queue, in order; all are checked before the first is queued. Raises as `submit`."""
        return list(self.submit_each([self.parse(document) for document in documents]))

    def parse(self, document: Mapping[str, Any] | str | bytes) -> Task:
        """Check a task against the contract without queueing it; raises InvalidTaskError."""
        return Task.parse(document, self._limits)

    def submit_each(self, tasks: Sequence[Task]) -> Iterator[Receipt]:
        """Put checked tasks on the queue, yielding each one's receipt as it is known. Raises as `submit`."""
        for start in range(0, len(tasks), _SUBMIT_BATCH):
            batch = tasks[start : start + _SUBMIT_BATCH]
            calls = [submit_call(task, task.priority.queue(self._queue.queue), self._times) for task in batch]
            # Submitting is idempotent under the id, so a lost reply is answered by asking again.
            submissions = self._insist(partial(lua.run_many_sync, self._redis, calls))
            for task, submission in zip(batch, submissions, strict=True):
                yield _receipt(task, submission)

    def status(self, task_id: str) -> TaskStatus:
        """Say where a task is. Raises UnknownTaskError, RedisUnavailableError."""
        names = ("state", "queue", "epoch", "created", "started", "deadline", "owner")
        fields: Any = self._insist(lambda: self._redis.hmget(task_hash(task_id), names))
        if fields[0] is None:
            return self._status_of_job(task_id)
        state, queue, epoch, created, started, deadline, owner = (value and value.decode() for value in fields)
        return TaskStatus(
            task_id,
            State(state),
            queue,
            int(epoch),
            _instant(created),
            _instant(started) if started else None,
            _instant(deadline),
            owner,
        )

    def _status_of_job(self, task_id: str) -> TaskStatus:
        """Say where a job is that stock RQ enqueued and no worker has seen yet."""
        fields: Any = self._insist(lambda: self._redis.hmget(job_hash(task_id), ("origin", "created_at")))
        if fields[0] is None:
            raise _unknown(task_id)
        created = datetime.fromisoformat(fields[1].decode())
        return TaskStatus(task_id, State.PENDING, fields[0].decode(), 0, created, None, None, None)

    def result(self, task_id: str) -> TaskResult | None:
        """Read a task's result; None while it has none, or when its TTL is over. Raises RedisUnavailableError."""
        document: Any = self._insist(lambda: self._redis.get(result_key(task_id)))
        return TaskResult.model_validate_json(document) if document else None

    def wait(self, task_id: str, timeout_s: float | None = None) -> TaskResult:
        """Block until the task has ended. Raises WaitTimeoutError, UnknownTaskError, RedisUnavailableError."""
        return next(self.wait_each([task_id], timeout_s))

    def wait_each(self, task_ids: Iterable[str], timeout_s: float | None = None) -> Iterator[TaskResult]:
        """Yield each task's result as it ends, whichever is first. Raises as `wait`."""
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        pending = list(dict.fromkeys(task_ids))
        watched: dict[str, str] = {}
        while pending or watched:
            while pending and len(watched) < _WATCHED:
                new, pending = pending[: _WATCHED - len(watched)], pending[_WATCHED - len(watched) :]
                ended, seen = self._look(new)
                watched |= seen
                yield from ended
            if watched:
                yield from self._block(watched, give_up_at)

    def _look(self, task_ids: Sequence[str]) -> tuple[list[TaskResult], dict[str, str]]:
        """Read the results that are there, and for the others the last event, after which to wait."""

        def ask() -> list[Any]:
            # A transaction: an end that is written between the two reads would never be waited for.
            pipeline = self._redis.pipeline(transaction=True)
            for task_id in task_ids:
                pipeline.get(result_key(task_id))
                pipeline.exists(task_hash(task_id), job_hash(task_id))
                pipeline.xrevrange(events_key(task_id), count=1)
            return list(pipeline.execute())

        replies = self._insist(ask)
        ended, seen = [], {}
        for i, task_id in enumerate(task_ids):
            document, known, last = replies[3 * i : 3 * i + 3]
            if document:
                ended.append(TaskResult.model_validate_json(document))
            elif not known:
                raise _unknown(task_id)
            else:
                seen[task_id] = last[0][0].decode() if last else "0-0"
        return ended, seen

    def _block(self, watched: dict[str, str], give_up_at: float | None) -> Iterator[TaskResult]:
        """Wait for events of the watched tasks; results of those that ended are taken out and yielded."""
        left_ms = _BLOCK_MS if give_up_at is None else int((give_up_at - time.monotonic()) * 1000)
        if left_ms <= 0:
            first = next(iter(watched))
            raise WaitTimeoutError(f"task {first} has not ended in time ({len(watched)} not ended); it goes on")
        streams: Any = {events_key(task_id): last for task_id, last in watched.items()}
        block_ms = max(1, min(left_ms, _BLOCK_MS))
        events: Any = self._insist(lambda: self._waiting.xread(streams, block=block_ms))
        ended = []
        for stream, entries in events or ():
            task_id = stream.decode().removeprefix(events_key(""))
            watched[task_id] = entries[-1][0].decode()
            if any(fields.get(b"type") == b"end" for _, fields in entries):
                ended.append(task_id)
        if ended:
            for task_id in ended:
                del watched[task_id]
            yield from self._look(ended)[0]
        elif not events:
            # Nothing for a while: the events may have been forgotten before we looked.
            results, seen = self._look(list(watched))
            watched.clear()
            watched |= seen
            yield from results

    def _insist(self, ask: Callable[[], T]) -> T:
        """Ask again after a broken connection; everything that is asked here may safely run twice."""
        for wait_s in (*_ATTEMPT_WAITS_S, None):
            try:
                return ask()
            except (RedisConnectionError, RedisTimeoutError) as error:
                if wait_s is None:
                    raise RedisUnavailableError(f"cannot reach Redis at {mask_url(self._url)}: {error}") from error
                time.sleep(wait_s)
        raise AssertionError

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
        self._waiting.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _receipt(task: Task, submission: Submission | Exception) -> Receipt:
    if isinstance(submission, Exception):
        raise submission
    match submission.outcome:
        case Submitted.CREATED | Submitted.EXISTS:
            created = submission.outcome is Submitted.CREATED
            return Receipt(task.task_id, State(submission.detail), created)
        case Submitted.CONFLICT:
            raise TaskConflictError(
                f"task_id {task.task_id}: another task with this id is {submission.detail}; choose another id, "
                "or send the same task to get its answer"
            )
        case Submitted.UNKNOWN_GRAPH:
            raise UnknownGraphError(f"graph: no live worker serves {task.graph!r}, known: {submission.detail}")
        case Submitted.FULL:
            raise QueueFullError(f"Redis is {submission.detail} % full: try again when tasks have ended")


def _unknown(task_id: str) -> UnknownTaskError:
    return UnknownTaskError(f"no task {task_id!r}: ids are kept for the idempotency window after the end")


def _instant(ms: str) -> datetime:
    return datetime.fromtimestamp(int(ms) / 1000, UTC)

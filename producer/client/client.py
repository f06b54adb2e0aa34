"""Submit tasks from any Python service, look them up by id, and wait for their results without polling.

Example:
    client = Client("redis://localhost:6379/0")
    task = client.submit({"query": "What is a lease?"}, user_id="ann")
    print(client.wait(task.task_id, timeout_s=60).result["answer"])
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.producer.client.lookup import (
    JOB_FIELDS,
    STATUS_FIELDS,
    Receipt,
    TaskStatus,
    forgotten_result,
    read_job_status,
    read_receipt,
    read_status,
    unknown_task,
)
from langgraph_rq.producer.client.records import Records
from langgraph_rq.producer.client.resume import MISSING, resume_document
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.errors import RedisUnavailableError, WaitTimeoutError
from langgraph_rq.shared.queue import ending
from langgraph_rq.shared.queue.events import BEGINNING, Event, read_event
from langgraph_rq.shared.queue.task_queue import cancel_call, events_key, job_hash, result_key, submit_call, task_hash
from langgraph_rq.shared.settings import QueueSettings, RedisSettings, TaskSettings, load, mask_url
from langgraph_rq.shared.tasks import State, Task, TaskResult
from langgraph_rq.shared.telemetry.audit import Action

_BLOCK_MS = 5_000
_WATCHED = 100
"""Results waited for at once; the others are found when their turn comes."""
_SUBMIT_BATCH = 200
_ATTEMPT_WAITS_S = (0.05, 0.3)

T = TypeVar("T")


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
        self._records = Records.open()
        self._replicas = scripts.Replicas(settings.submit_replicas, round(settings.submit_replicas_timeout_s * 1000))
        self._redis = open_sync(self._url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
        self._waiting = open_sync(self._url, connections=settings.redis_connections, timeout_s=2 * _BLOCK_MS / 1000)

    def submit(self, input: Mapping[str, Any], **fields: Any) -> Receipt:  # noqa: A002 - the contract's word
        """Put one task on the queue. `fields` are those of `Task`: graph, task_id, user_id, thread_id, ...

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
            batch, records = self._records.submit(tasks[start : start + _SUBMIT_BATCH], self._queue.queue)
            calls = [submit_call(task, task.priority.queue(self._queue.queue), self._times) for task in batch]
            # Submitting is idempotent under the id, so a lost reply is answered by asking again.
            answers = self._insist(partial(scripts.run_many_sync, self._redis, calls + records, self._replicas))
            for task, submission in zip(batch, answers[: len(batch)], strict=True):
                yield read_receipt(task, submission)

    def status(self, task_id: str) -> TaskStatus:
        """Say where a task is. Raises UnknownTaskError, RedisUnavailableError."""
        fields: Any = self._insist(lambda: self._redis.hmget(task_hash(task_id), STATUS_FIELDS))
        found = read_status(task_id, fields)
        if found is None:
            job: Any = self._insist(lambda: self._redis.hmget(job_hash(task_id), JOB_FIELDS))
            found = read_job_status(task_id, job)
        if found is None:
            raise unknown_task(task_id)
        return found

    def result(self, task_id: str) -> TaskResult | None:
        """Read a task's result; None while it has none, or when its TTL is over. Raises RedisUnavailableError."""
        document: Any = self._insist(lambda: self._redis.get(result_key(task_id)))
        if document is None:
            return None
        self._note(Action.READ, task_id)
        return TaskResult.model_validate_json(document)

    def cancel(self, task_id: str) -> State:
        """Stop a task; answers the state in which it is now.

        `cancelled`: it had not begun, and has ended. `running`: its worker stops it, and no model call of it starts
        from now on. Any other state: it had ended before.

        Raises:
            UnknownTaskError: there is no such task (yet: a job of stock RQ becomes one when a worker first sees it).
            RedisUnavailableError: Redis cannot be reached.
        """

        def look() -> list[Any]:
            pipeline = self._redis.pipeline(transaction=False)
            ending.ask(pipeline, task_id)
            return list(pipeline.execute())

        result = ending.early_end(task_id, State.CANCELLED, self._insist(look))
        if result is None:
            raise unknown_task(task_id)
        call = cancel_call(task_id, State.CANCELLED, result, self._times)
        state = self._insist(partial(scripts.run_sync, self._redis, call))
        if state is None:
            raise unknown_task(task_id)
        self._note(Action.CANCELLED, task_id, state=state)
        return state

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
                pipeline.hget(task_hash(task_id), "state")
                pipeline.exists(job_hash(task_id))
                pipeline.xrevrange(events_key(task_id), count=1)
            return list(pipeline.execute())

        replies = self._insist(ask)
        ended, seen = [], {}
        for i, task_id in enumerate(task_ids):
            document, state, has_job, last = replies[4 * i : 4 * i + 4]
            if document:
                ended.append(TaskResult.model_validate_json(document))
            elif not (state or has_job):
                raise unknown_task(task_id)
            elif state and State(state.decode()).is_terminal:
                raise forgotten_result(task_id, State(state.decode()))
            else:
                seen[task_id] = last[0][0].decode() if last else "0-0"
        self._note(Action.READ, *(task_id for i, task_id in enumerate(task_ids) if replies[4 * i]))
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

    def events(self, task_id: str, after: str = BEGINNING) -> Iterator[Event]:
        """Yield what happens to a task, from its beginning or `after` the event of that id, until it has ended.

        Raises UnknownTaskError, also for a task whose events are forgotten: its result may still be there.
        """
        state = self.status(task_id).state
        while True:
            streams: Any = {events_key(task_id): after}
            block_ms = None if state.is_terminal else _BLOCK_MS
            found: Any = self._insist(partial(self._waiting.xread, streams, block=block_ms))
            for event in (read_event(entry) for _, entries in found or () for entry in entries):
                after = event.id
                yield event
                if event.is_last:
                    return
            if not found:
                if state.is_terminal:
                    raise forgotten_result(task_id, state)
                state = self.status(task_id).state

    def resume(self, task_id: str, value: Any = MISSING, *, answers: Mapping[str, Any] | None = None) -> Receipt:
        """Answer what a task was interrupted for; the receipt is that of the task which goes on with its thread.

        The same answer again is the same task.

        Args:
            task_id: The interrupted task.
            value: The answer, where one question is open.
            answers: Interrupt id -> answer, for some or all of the open questions.

        Raises:
            NotInterruptedError: the task did not end as interrupted.
            TaskConflictError: another answer was given before.
            InvalidTaskError: an answer to a question that was not asked. Further as `submit`.
        """
        data: Any = self._insist(lambda: self._redis.hget(job_hash(task_id), "data"))
        document = resume_document(data, self.result(task_id), answers, value, self._limits)
        return next(self.submit_each([self.parse(document)]))

    def _note(self, action: Action, *task_ids: str, **details: Any) -> None:
        """Write what was done to the audit log, if there is one."""
        if records := self._records.of(action, *task_ids, **details):
            self._insist(partial(scripts.run_many_sync, self._redis, records))

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

"""The asynchronous client, for services that live in an event loop: what `producer.Client` does, without threads.

Example:
    async with AsyncClient("redis://localhost:6379/0") as client:
        task = await client.submit({"query": "What is a lease?"}, user_id="ann")
        print((await client.wait(task.task_id, timeout_s=60)).result["answer"])
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.producer.client.events import BLOCK_S, READERS, EventFeed
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
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.errors import RedisUnavailableError, WaitTimeoutError
from langgraph_rq.shared.queue import ending
from langgraph_rq.shared.queue.events import BEGINNING, FORGOTTEN_END, Event, EventType, order, read_event
from langgraph_rq.shared.queue.task_queue import cancel_call, events_key, job_hash, result_key, submit_call, task_hash
from langgraph_rq.shared.settings import QueueSettings, RedisSettings, TaskSettings, load, mask_url
from langgraph_rq.shared.tasks import DEFAULT_TENANT, State, Task, TaskResult, task_key
from langgraph_rq.shared.telemetry.audit import Action

_SUBMIT_BATCH = 200
_ATTEMPT_WAITS_S = (0.05, 0.3)
_LOOK_AGAIN_S = 60.0
_QUIET_TIMES = 4
"""How often a waiter makes sure that what it waits for is still there: after a time, or after so many quiet ones."""

T = TypeVar("T")


class AsyncClient:
    """An asynchronous client of one event loop; any number of callers may share it.

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
        self._tenant = DEFAULT_TENANT
        self.redis: Redis = open_async(
            self._url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s
        )
        self._blocking = open_async(self._url, connections=READERS, timeout_s=2 * BLOCK_S)
        self._feed = EventFeed(self.redis, self._blocking)

    def for_tenant(self, tenant: str) -> Self:
        """Share everything with a client to which only the tasks of `tenant` exist."""
        view = copy(self)
        view._tenant = tenant  # noqa: SLF001 - its own class
        return view

    async def submit(self, input: Mapping[str, Any], **fields: Any) -> Receipt:  # noqa: A002 - the contract's word
        """Put one task on the queue, as `Client.submit` does; raises what it raises."""
        return (await self.submit_many([{"input": input, **fields}]))[0]

    async def submit_many(self, documents: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Put many tasks on the queue, in order; all are checked before the first is queued."""
        return [receipt async for receipt in self.submit_each([self.parse(document) for document in documents])]

    def parse(self, document: Mapping[str, Any]) -> Task:
        """Check a task against the contract without queueing it; raises InvalidTaskError."""
        return Task.parse({**document, "tenant": self._tenant}, self._limits)

    async def submit_each(self, tasks: Sequence[Task]) -> AsyncIterator[Receipt]:
        """Put checked tasks on the queue, yielding each one's receipt as it is known."""
        for start in range(0, len(tasks), _SUBMIT_BATCH):
            batch, records = self._records.submit(tasks[start : start + _SUBMIT_BATCH], self._queue.queue)
            calls = [submit_call(task, task.priority.queue(self._queue.queue), self._times) for task in batch]
            # Submitting is idempotent under the id, so a lost reply is answered by asking again.
            answers = await self._insist(partial(scripts.run_many, self.redis, calls + records, self._replicas))
            for task, submission in zip(batch, answers[: len(batch)], strict=True):
                yield read_receipt(task, submission)

    async def status(self, task_id: str) -> TaskStatus:
        """Say where a task is. Raises UnknownTaskError, RedisUnavailableError."""
        key = self._key(task_id)
        fields: Any = await self._insist(lambda: self.redis.hmget(task_hash(key), STATUS_FIELDS))
        found = read_status(task_id, fields)
        if found is None:
            job: Any = await self._insist(lambda: self.redis.hmget(job_hash(key), JOB_FIELDS))
            found = read_job_status(task_id, job)
        if found is None:
            raise unknown_task(task_id)
        return found

    async def result(self, task_id: str) -> TaskResult | None:
        """Read a task's result; None while it has none, or when its TTL is over. Raises RedisUnavailableError."""
        document = await self.result_json(task_id)
        return TaskResult.model_validate_json(document) if document else None

    async def result_json(self, task_id: str) -> bytes | None:
        """Read a task's result as it stands in Redis."""
        document: Any = await self._insist(lambda: self.redis.get(result_key(self._key(task_id))))
        if document is None:
            return None
        await self._note(Action.READ, self._key(task_id))
        return bytes(document)

    async def wait(self, task_id: str, timeout_s: float | None = None) -> TaskResult:
        """Wait until the task has ended. Raises WaitTimeoutError, UnknownTaskError, RedisUnavailableError."""
        return TaskResult.model_validate_json(await self.wait_json(task_id, timeout_s))

    async def wait_json(self, task_id: str, timeout_s: float | None = None) -> bytes:
        """Wait as `wait` does, for the result as it stands in Redis."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    document, place = await self._look(task_id)
                    if document is not None:
                        await self._note(Action.READ, self._key(task_id))
                        return document
                    following = self._feed.follow(events_key(self._key(task_id)), place, _LOOK_AGAIN_S)
                    async with aclosing(following) as events:
                        async for event in events:
                            if event is None or event.is_last:
                                break
                    if self._feed.is_ending:
                        break
        except TimeoutError:
            pass
        raise WaitTimeoutError(f"task {task_id} has not ended in time; it goes on")

    async def events(self, task_id: str, after: str = BEGINNING) -> AsyncIterator[Event]:
        """Yield what happens to a task, from its beginning or `after` the event of that id, until it has ended.

        Of a task whose events are forgotten only the end is told. Raises UnknownTaskError, RedisUnavailableError.
        """
        following = await self.follow(task_id, after, _LOOK_AGAIN_S)
        async for event in following or _nothing():
            if event is not None:
                yield event

    async def follow(self, task_id: str, after: str, quiet_s: float) -> AsyncIterator[Event | None] | None:
        """Begin to yield as `events` does, and None whenever nothing has happened for `quiet_s`.

        Answers None instead of an iterator when nothing is left to tell. Raises as `events`, before it yields.
        """
        state, last = await self._where(task_id)
        return None if _is_over(state, last, after) else self._follow(task_id, after, quiet_s, state, last)

    async def _follow(
        self, task_id: str, after: str, quiet_s: float, state: State, last: Event | None
    ) -> AsyncIterator[Event | None]:
        while not (_is_over(state, last, after) or self._feed.is_ending):
            if state.is_terminal and last is None:
                yield Event(FORGOTTEN_END, EventType.END, f'{{"state":"{state}"}}')
                return
            quiet = 0
            async with aclosing(self._feed.follow(events_key(self._key(task_id)), after, quiet_s)) as events:
                async for event in events:
                    yield event
                    quiet = 0 if event else quiet + 1
                    after = event.id if event else after
                    if event and event.is_last:
                        return
                    if quiet == _QUIET_TIMES:
                        break
            state, last = await self._where(task_id, patiently=True)

    async def cancel(self, task_id: str) -> State:
        """Stop a task, as `Client.cancel` does; answers the state in which it is now."""
        key = self._key(task_id)

        async def look() -> list[Any]:
            pipeline = self.redis.pipeline(transaction=False)
            ending.ask(pipeline, key)
            return list(await pipeline.execute())

        result = ending.early_end(task_id, State.CANCELLED, await self._insist(look))
        if result is None:
            raise unknown_task(task_id)
        state = await self._insist(
            lambda: scripts.run(self.redis, cancel_call(key, State.CANCELLED, result, self._times))
        )
        if state is None:
            raise unknown_task(task_id)
        await self._note(Action.CANCELLED, key, state=state)
        return state

    async def resume(self, task_id: str, value: Any = MISSING, *, answers: Mapping[str, Any] | None = None) -> Receipt:
        """Answer what a task was interrupted for, as `Client.resume` does."""
        data: Any = await self._insist(lambda: self.redis.hget(job_hash(self._key(task_id)), "data"))
        document = resume_document(data, await self.result(task_id), answers, value, self._limits)
        return (await self.submit_many([document]))[0]

    def _key(self, task_id: str) -> str:
        return task_key(task_id, self._tenant)

    async def _look(self, task_id: str) -> tuple[bytes | None, str]:
        """Read the result if it is there, else the last event's place, after which to wait."""
        key = self._key(task_id)

        async def ask() -> list[Any]:
            # The last event first: an end that is written meanwhile comes after it, and is waited for.
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.xrevrange(events_key(key), count=1)
            pipeline.hget(task_hash(key), "state")
            pipeline.exists(job_hash(key))
            pipeline.get(result_key(key))
            return list(await pipeline.execute())

        last, state, has_job, document = await self._insist(ask)
        if document is None and state is None and not has_job:
            raise unknown_task(task_id)
        if document is None and state is not None and State(state.decode()).is_terminal:
            raise forgotten_result(task_id, State(state.decode()))
        return document, last[0][0].decode() if last else BEGINNING

    async def _where(self, task_id: str, *, patiently: bool = False) -> tuple[State, Event | None]:
        """Read a task's state and its last event; `patiently` waits for a Redis that is away."""
        key = self._key(task_id)

        async def ask() -> list[Any]:
            # The state first: when it is the last one, the last event is there too.
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.hget(task_hash(key), "state")
            pipeline.exists(job_hash(key))
            pipeline.xrevrange(events_key(key), count=1)
            return list(await pipeline.execute())

        while True:
            try:
                state, has_job, last = await self._insist(ask)
            except RedisUnavailableError:
                if not patiently:
                    raise
            else:
                break
        if state is None and not has_job:
            raise unknown_task(task_id)
        return State(state.decode()) if state else State.PENDING, read_event(last[0]) if last else None

    async def _note(self, action: Action, *keys: str, **details: Any) -> None:
        """Write what was done to the audit log, if there is one."""
        if records := self._records.of(action, *keys, **details):
            await self._insist(partial(scripts.run_many, self.redis, records))

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again after a broken connection; everything that is asked here may safely run twice."""
        for wait_s in (*_ATTEMPT_WAITS_S, None):
            try:
                return await ask()
            except (RedisConnectionError, RedisTimeoutError) as error:
                if wait_s is None:
                    raise RedisUnavailableError(f"cannot reach Redis at {mask_url(self._url)}: {error}") from error
                await asyncio.sleep(wait_s)
        raise AssertionError

    def end_waits(self) -> None:
        """Let nobody wait any longer: waits end as if their time were over, events stop where they are."""
        self._feed.end_waits()

    async def aclose(self) -> None:
        """Stop waiting and close the connections."""
        await self._feed.aclose()
        await self._blocking.aclose()
        await self.redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _is_over(state: State, last: Event | None, after: str) -> bool:
    """Whether who has seen the event `after` has seen the end."""
    return state.is_terminal and order(after) >= order(last.id if last else FORGOTTEN_END)


async def _nothing() -> AsyncIterator[None]:
    """Yield nothing."""
    return
    yield

"""Everything that a client does, written once: coroutines over a transport that blocks or suspends.

`AsyncClient` is this core over a transport that suspends; `Client` runs each of these coroutines over one that blocks.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from typing import Any, Self, Unpack

from langgraph_rq.producer.client.door import Door
from langgraph_rq.producer.client.reading.following import Following
from langgraph_rq.producer.client.reading.lookup import Receipt, TaskStatus, read_result
from langgraph_rq.producer.client.reading.results import LOOK_AGAIN_S, Results
from langgraph_rq.producer.client.reading.statuses import ListFields, TaskPage, find_status, list_tasks
from langgraph_rq.producer.client.records import Records
from langgraph_rq.producer.client.resume import MISSING, Answers
from langgraph_rq.producer.client.stops import Stops
from langgraph_rq.producer.client.store import StoreItems
from langgraph_rq.producer.client.submitting import Submitter
from langgraph_rq.producer.client.task_fields import TaskFields
from langgraph_rq.producer.client.threads import Threads
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.producer.client.transport.requests import Requests
from langgraph_rq.producer.client.transport.transports import Transport
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import (
    ForgedResultError,
    InvalidInputError,
    InvalidTaskError,
    UnreadableTaskError,
    Violation,
)
from langgraph_rq.shared.queue.events import BEGINNING, Event
from langgraph_rq.shared.queue.keys import result_key
from langgraph_rq.shared.queue.shares import Share
from langgraph_rq.shared.queue.verbs import Multitask
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.settings import QueueSettings, RedisSettings, TaskSettings, TenantSettings, load
from langgraph_rq.shared.signing import SignatureError, unsigned_result
from langgraph_rq.shared.strict_json import kind
from langgraph_rq.shared.tasks import DEFAULT_TENANT, State, Task, task_key
from langgraph_rq.shared.telemetry.audit import Action


class ClientCore:
    """The operations of both clients, which describe the arguments.

    `transport` makes a transport of a URL, a number of connections and a timeout in seconds.
    """

    def __init__(
        self,
        transport: Callable[[str, int, float], Transport],
        redis_url: str | None,
        queue: QueueSettings | None,
        tasks: TaskSettings | None,
    ) -> None:
        settings = load(RedisSettings, redis_url=redis_url)
        url = settings.redis_url.get_secret_value()
        self._queue = queue or load(QueueSettings)
        tasks = tasks or load(TaskSettings)
        self._limits, self._keys = tasks.limits(), tasks.keys()
        self._times = self._queue.times(self._limits)
        self._records = Records.open()
        self._replicas = scripts.Replicas(settings.submit_replicas, round(settings.submit_replicas_timeout_s * 1000))
        self._tenant = DEFAULT_TENANT
        self._tenants = load(TenantSettings)
        self._share = self._tenants.share(self._tenant)
        self._warned: set[str] = set()
        self._transport = transport(url, settings.redis_connections, settings.redis_timeout_s)
        self._connection = Connection(self._transport, url)
        self._door = Door(self._connection)

    def for_tenant(self, tenant: str, share: Share | None = None) -> Self:
        """Return a client to which only the tasks of `tenant` exist; it shares the connections of this one.

        Args:
            tenant: The tenant.
            share: What it may hold in Redis; None: as the settings say.
        """
        view = copy(self)
        view._tenant = tenant  # noqa: SLF001 - its own class
        view._share = share or self._tenants.share(tenant)  # noqa: SLF001
        return view

    def parse(self, document: Mapping[str, Any] | str | bytes) -> Task:
        """Check a task against the contract without queueing it.

        Raises:
            InvalidTaskError: with every violation; also for a document that names another tenant than the client's.
        """
        if isinstance(document, Mapping):
            document = {"tenant": self._tenant, **document}
        task = Task.parse(document, self._limits)
        if task.tenant == self._tenant:
            return task
        if isinstance(document, str | bytes) and "tenant" not in task.model_fields_set:
            return task.model_copy(update={"tenant": self._tenant})
        raise InvalidTaskError(Violation("tenant", f"{self._tenant}, the client's own", task.tenant))

    @property
    def threads(self) -> Threads:
        """The state of the tenant's threads, which workers read."""
        return Threads(Requests(self._connection, self._tenant, self._keys), self._tenant)

    @property
    def store(self) -> StoreItems:
        """The tenant's long-term memory, which workers read and write."""
        return StoreItems(Requests(self._connection, self._tenant, self._keys))

    async def submit(self, input: Any, **fields: Unpack[TaskFields]) -> Receipt:  # noqa: A002 - the contract's word
        """Put one task on the queue. `TaskFields` describes the keywords.

        The same `task_id` again answers with the task that is there; it runs once.

        Raises:
            InvalidTaskError: a field breaks the contract, or the graph would refuse the input; nothing was queued.
            TaskConflictError: another task is known under this id.
            UnknownGraphError: no live worker serves the graph.
            QueueFullError: Redis is nearly full.
            TenantFullError: the tenant has as many tasks, or as much of Redis, as it may.
            RedisUnavailableError: Redis cannot be reached. The task may be queued; submit it again under its id.
        """
        return (await self.submit_many([{"input": input, **fields}]))[0]

    async def submit_many(self, documents: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Put many tasks on the queue, in order; all are checked before the first is queued.

        Raises as `submit`. Others may be queued then: give ids of your own, and submit all again; or use `submit_each`.
        """
        return [receipt async for receipt in self.submit_each([self.parse(document) for document in documents])]

    async def submit_each(
        self,
        tasks: Sequence[Task],
        *,
        multitask: Multitask = Multitask.ENQUEUE,
        about: Mapping[str, bytes] | None = None,
    ) -> AsyncGenerator[Receipt, None]:
        """Put checked tasks on the queue and yield their receipts, before a refusal those of all that were queued.

        Raises as `submit`. `multitask`: what becomes of the open tasks of their threads; REJECT raises ThreadBusyError.
        `about`: task id -> what is recorded of it.
        """
        async with aclosing(self._submitter().each(tasks, multitask, about or {})) as receipts:
            async for receipt in receipts:
                yield receipt

    async def status(self, task_id: str) -> TaskStatus:
        """Read where a task is. Raises UnknownTaskError, RedisUnavailableError."""
        return await find_status(self._connection, task_id, self._key(task_id))

    async def tasks(self, *, before: int = 0, limit: int = 100, **only: Unpack[ListFields]) -> TaskPage:
        """List tasks, the newest first, as `list_tasks` does. Raises RedisUnavailableError."""
        return await list_tasks(self._connection, self._tenant, self._times.records, before, limit, **only)

    async def result(self, task_id: str) -> TaskResult | None:
        """Read a task's result; None while it has none, or when its TTL is over. Raises RedisUnavailableError."""
        document = await self.result_json(task_id)
        return read_result(task_id, document) if document else None

    async def result_json(self, task_id: str) -> bytes | None:
        """Read a task's result as `result` does, as the JSON document that stands in Redis."""
        key = self._key(task_id)
        (document,) = await self._connection.read(lambda pipeline: pipeline.get(result_key(key)))
        if document is None:
            return None
        document = self._checked(task_id, document)
        await self._record(Action.READ, key)
        return document

    async def wait(self, task_id: str, timeout_s: float | None = None) -> TaskResult:
        """Wait until the task has ended. Raises WaitTimeoutError, UnknownTaskError, RedisUnavailableError."""
        return read_result(task_id, await self.wait_json(task_id, timeout_s))

    async def wait_json(self, task_id: str, timeout_s: float | None = None, *, is_new: bool = False) -> bytes:
        """Wait as `wait` does, for the JSON document that stands in Redis.

        A task that `is_new`, just submitted, is not looked at before it is waited for: one round trip less.
        """
        async with aclosing(self._results().ends([task_id], timeout_s, are_new=is_new)) as documents:
            return (await anext(documents))[1]

    async def wait_each(
        self, task_ids: Iterable[str], timeout_s: float | None = None
    ) -> AsyncGenerator[TaskResult, None]:
        """Yield each task's result as it ends, whichever is first; with more than 1,000 open ones a few seconds later.

        A task whose result is forgotten already is left out, and logged.

        Raises, after the others' results:
            UnreadableTaskError: another program has overwritten a task's keys.
            UnknownTaskError, WaitTimeoutError: as `wait`.
        """
        if isinstance(task_ids, str):
            raise InvalidInputError(Violation("task_ids", "a list of ids", kind(task_ids)))
        problem: UnreadableTaskError | None = None
        async with aclosing(self._results().ends(task_ids, timeout_s, skips_forgotten=True)) as documents:
            async for task_id, document in documents:
                try:
                    found = read_result(task_id, document)
                except UnreadableTaskError as error:
                    problem = problem or error
                    continue
                yield found
        if problem:
            raise problem

    async def events(self, task_id: str, after: str = BEGINNING) -> AsyncGenerator[Event, None]:
        """Yield what happens to a task, from its beginning or `after` the event of that id, until it has ended.

        Of a task whose events are forgotten only the end is yielded. An outage that begins later than the first event
        is waited for.

        Raises:
            UnknownTaskError: no such task is known at the start, or it is forgotten meanwhile.
            RedisUnavailableError: Redis cannot be reached at the start.
        """
        following = await self.follow(task_id, after, LOOK_AGAIN_S)
        if following is None:
            return
        async with aclosing(following) as events:
            async for event in events:
                if event is not None:
                    yield event

    async def follow(
        self, task_id: str, after: str, quiet_s: float, *, in_parts: bool = False, is_new: bool = False
    ) -> AsyncGenerator[Event | None, None] | None:
        """Begin to yield as `events` does, and None whenever nothing has happened for `quiet_s`.

        With `in_parts` the parts of a long event are yielded one by one: they need not all be in memory at once.
        A task that `is_new`, just submitted, is not looked at first.

        Answers None instead of an iterator when `after` is the end. Raises as `events`, before it yields.
        """
        return await Following(self._connection, self._transport, task_id, self._key(task_id)).begin(
            after, quiet_s, in_parts=in_parts, is_new=is_new
        )

    async def cancel(self, task_id: str, *, rollback: bool = False, reason: str = "") -> State:
        """Stop a task; answers the state in which it is now.

        `cancelled`: it had not begun, and has ended. `running`: its worker stops it, and no model call of it starts
        from now on. `pending`: it has begun and waits; a worker rolls it back. Any other state: it had ended before.

        Args:
            task_id: The task.
            rollback: Also remove what it has written to its thread, and the task from the thread's runs.
            reason: Who wants it, at most 200 characters; shown in its result.

        Raises:
            UnknownTaskError: there is no such task (yet: a job of stock RQ becomes one when a worker first sees it).
            RedisUnavailableError: Redis cannot be reached.
        """
        return await self._stops().stop(task_id, self._key(task_id), rollback=rollback, reason=reason)

    async def resume(
        self,
        task_id: str,
        value: Any = MISSING,
        *,
        answers: Mapping[str, Any] | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Answer what a task was interrupted for; the receipt is that of the task which goes on with its thread.

        The same answer again is the same task, unless that was cancelled, timed out or failed: then it is a new one.

        Args:
            task_id: The interrupted task.
            value: The answer, where one question is open; none where the task stopped at a breakpoint.
            answers: Interrupt id -> answer, for some or all of the open questions.
            seen: Interrupt id -> the question as it was shown. If the node asks another one by the time that the answer
                comes, the new task ends as interrupted with that one, and the answer is not used.

        Raises:
            NotInterruptedError: the task did not end as interrupted.
            AlreadyAnsweredError: another answer was given before.
            InvalidTaskError: an answer to a question that was not asked. Further as `submit`.
        """
        return await self._answers().resume(task_id, await self.result(task_id), answers, value, seen)

    async def continue_(self, task_id: str) -> Receipt:
        """Continue a task that failed, timed out or was cancelled; the receipt is that of the task which does.

        It goes on from the task's last checkpoint: nodes that have finished do not run again. Continued again, it is
        the same task, unless that has failed too. `metadata.continues` of its result is `task_id`.

        Raises:
            NotContinuableError: the task has not failed.
            UnknownTaskError: it is not kept any more. Further as `submit`.
        """
        return await self._answers().continue_(task_id)

    @property
    def is_ending(self) -> bool:
        """Whether `end_waits` was called."""
        return self._transport.is_ending

    def end_waits(self) -> None:
        """End all waits as if their time were over, and all events where they are, now and from now on."""
        self._transport.end_waits()

    async def aclose(self) -> None:
        """End all waits and close the connections."""
        await self._transport.close()

    def _key(self, task_id: str) -> str:
        if not isinstance(task_id, str):  # such as a receipt, whose text is the id of no task
            raise InvalidInputError(Violation("task_id", "text, such as receipt.task_id", kind(task_id)))
        return task_key(task_id, self._tenant)

    def _checked(self, task_id: str, document: bytes) -> bytes:
        """Return a result document without its signature. Raises ForgedResultError, when tasks are signed."""
        if self._keys is None:
            return unsigned_result(document)
        try:
            return self._keys.check_result(self._key(task_id), document)
        except SignatureError as error:
            raise ForgedResultError(task_id, str(error)) from None

    def _answers(self) -> Answers:
        return Answers(self._connection, self._key, self._keys, self._limits, self.submit_many)

    def _submitter(self) -> Submitter:
        return Submitter(
            self._connection,
            self._door,
            self._queue.queue,
            self._times,
            self._replicas,
            self._share,
            self._keys,
            self._records,
            self._stops(),
            self._warned,
        )

    def _stops(self) -> Stops:
        return Stops(self._connection, self._times, self._keys, self._record)

    def _results(self) -> Results:
        return Results(self._connection, self._key, self._record, self._checked)

    async def _record(self, action: Action, *keys: str, **details: Any) -> None:
        """Write what was done to the audit log, if there is one."""
        if records := self._records.of(action, *keys, **details):
            await self._connection.run(records)

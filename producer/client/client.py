"""Submit tasks from any Python service, look them up by id, and wait for their results without polling.

Example:
    client = Client("redis://localhost:6379/0")
    task = client.submit({"query": "What is a lease?"}, user_id="ann")
    print(client.wait(task.task_id, timeout_s=60).result["answer"])
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import Any, Self, Unpack

from langgraph_rq.producer.client.blocking import BlockingStore, BlockingThreads, iterate, run
from langgraph_rq.producer.client.core import ClientCore
from langgraph_rq.producer.client.reading.lookup import Receipt, TaskStatus
from langgraph_rq.producer.client.reading.statuses import ListFields, TaskPage
from langgraph_rq.producer.client.resume import MISSING
from langgraph_rq.producer.client.task_fields import TaskFields
from langgraph_rq.producer.client.transport.transports import BlockingTransport
from langgraph_rq.shared.queue.events import BEGINNING, Event
from langgraph_rq.shared.queue.shares import Share
from langgraph_rq.shared.queue.verbs import Multitask
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.settings import QueueSettings, TaskSettings
from langgraph_rq.shared.tasks import State, Task


class Client:
    """A synchronous client; safe to share between threads and across forks.

    Every method is that of `AsyncClient`, whose coroutines it runs over a connection that blocks.

    Args:
        redis_url: None reads REDIS_URL, as every part of the system does.
        queue, tasks: The settings that workers and producers must agree on; None reads them from the environment.
    """

    def __init__(
        self, redis_url: str | None = None, *, queue: QueueSettings | None = None, tasks: TaskSettings | None = None
    ) -> None:
        self._core = ClientCore(BlockingTransport, redis_url, queue, tasks)

    def for_tenant(self, tenant: str, share: Share | None = None) -> Self:
        """Return a client to which only the tasks of `tenant` exist; it shares the connections of this one.

        Args:
            tenant: The tenant.
            share: What it may hold in Redis; None: as the settings say.
        """
        view = copy(self)
        view._core = self._core.for_tenant(tenant, share)  # noqa: SLF001 - its own class
        return view

    def parse(self, document: Mapping[str, Any] | str | bytes) -> Task:
        """Check a task against the contract without queueing it; raises InvalidTaskError."""
        return self._core.parse(document)

    @property
    def threads(self) -> BlockingThreads:
        """The state of the tenant's threads, which workers read."""
        return BlockingThreads(self._core.threads)

    @property
    def store(self) -> BlockingStore:
        """The tenant's long-term memory, which workers read and write."""
        return BlockingStore(self._core.store)

    def submit(self, input: Any, **fields: Unpack[TaskFields]) -> Receipt:  # noqa: A002 - the contract's word
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
        return run(self._core.submit(input, **fields))

    def submit_many(self, documents: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Put many tasks on the queue, in order; all are checked before the first is queued.

        Raises as `submit`. Others may be queued then: give ids of your own, and submit all again; or use `submit_each`.
        """
        return run(self._core.submit_many(documents))

    def submit_each(
        self,
        tasks: Sequence[Task],
        *,
        multitask: Multitask = Multitask.ENQUEUE,
        about: Mapping[str, bytes] | None = None,
    ) -> Iterator[Receipt]:
        """Put checked tasks on the queue and yield their receipts, before a refusal those of all that were queued.

        Raises as `submit`. `multitask`: what becomes of the open tasks of their threads; REJECT raises ThreadBusyError.
        `about`: task id -> what is recorded of it.
        """
        return iterate(self._core.submit_each(tasks, multitask=multitask, about=about))

    def status(self, task_id: str) -> TaskStatus:
        """Read where a task is. Raises UnknownTaskError, RedisUnavailableError."""
        return run(self._core.status(task_id))

    def tasks(self, *, before: int = 0, limit: int = 100, **only: Unpack[ListFields]) -> TaskPage:
        """List tasks, the newest first, as `list_tasks` does. Raises RedisUnavailableError."""
        return run(self._core.tasks(before=before, limit=limit, **only))

    def result(self, task_id: str) -> TaskResult | None:
        """Read a task's result; None while it has none, or when its TTL is over. Raises RedisUnavailableError."""
        return run(self._core.result(task_id))

    def result_json(self, task_id: str) -> bytes | None:
        """Read a task's result as `result` does, as the JSON document that stands in Redis."""
        return run(self._core.result_json(task_id))

    def wait(self, task_id: str, timeout_s: float | None = None) -> TaskResult:
        """Block until the task has ended. Raises WaitTimeoutError, UnknownTaskError, RedisUnavailableError."""
        return run(self._core.wait(task_id, timeout_s))

    def wait_json(self, task_id: str, timeout_s: float | None = None, *, is_new: bool = False) -> bytes:
        """Wait as `wait` does, for the JSON document that stands in Redis.

        A task that `is_new`, just submitted, is not looked at before it is waited for: one round trip less.
        """
        return run(self._core.wait_json(task_id, timeout_s, is_new=is_new))

    def wait_each(self, task_ids: Iterable[str], timeout_s: float | None = None) -> Iterator[TaskResult]:
        """Yield each task's result as it ends, whichever is first; with more than 1,000 open ones a few seconds later.

        A task whose result is forgotten already is left out, and logged.

        Raises, after the others' results:
            UnreadableTaskError: another program has overwritten a task's keys.
            UnknownTaskError, WaitTimeoutError: as `wait`.
        """
        return iterate(self._core.wait_each(task_ids, timeout_s))

    def events(self, task_id: str, after: str = BEGINNING) -> Iterator[Event]:
        """Yield what happens to a task, from its beginning or `after` the event of that id, until it has ended.

        Of a task whose events are forgotten only the end is yielded. An outage that begins later than the first event
        is waited for.

        Raises:
            UnknownTaskError: no such task is known at the start, or it is forgotten meanwhile.
            RedisUnavailableError: Redis cannot be reached at the start.
        """
        return iterate(self._core.events(task_id, after))

    def follow(
        self, task_id: str, after: str, quiet_s: float, *, in_parts: bool = False, is_new: bool = False
    ) -> Iterator[Event | None] | None:
        """Begin to yield as `events` does, and None whenever nothing has happened for `quiet_s`.

        With `in_parts` the parts of a long event are yielded one by one: they need not all be in memory at once.
        A task that `is_new`, just submitted, is not looked at first.

        Answers None instead of an iterator when `after` is the end. Raises as `events`, before it yields.
        """
        following = run(self._core.follow(task_id, after, quiet_s, in_parts=in_parts, is_new=is_new))
        return iterate(following) if following else None

    def cancel(self, task_id: str, *, rollback: bool = False, reason: str = "") -> State:
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
        return run(self._core.cancel(task_id, rollback=rollback, reason=reason))

    def resume(
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
        return run(self._core.resume(task_id, value, answers=answers, seen=seen))

    def continue_(self, task_id: str) -> Receipt:
        """Continue a task that failed, timed out or was cancelled; the receipt is that of the task which does.

        It goes on from the task's last checkpoint: nodes that have finished do not run again. Continued again, it is
        the same task, unless that has failed too. `metadata.continues` of its result is `task_id`.

        Raises:
            NotContinuableError: the task has not failed.
            UnknownTaskError: it is not kept any more. Further as `submit`.
        """
        return run(self._core.continue_(task_id))

    def end_waits(self) -> None:
        """End all waits as if their time were over, and all events where they are, within 5 s and from now on."""
        self._core.end_waits()

    def close(self) -> None:
        """End all waits and close the connections."""
        run(self._core.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

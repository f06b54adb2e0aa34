"""Put tasks on the queue, many in a round trip."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import RedisError

from langgraph_rq.producer.client.client_log import ClientLog
from langgraph_rq.producer.client.door import Door
from langgraph_rq.producer.client.reading.lookup import Receipt, read_receipt
from langgraph_rq.producer.client.records import Records
from langgraph_rq.producer.client.stops import Stops
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.connections.scripts import Call, Replicas
from langgraph_rq.shared.errors import LanggraphRqError
from langgraph_rq.shared.queue.answers import Submission, Submitted
from langgraph_rq.shared.queue.shares import Share
from langgraph_rq.shared.queue.verbs import Multitask, QueueTimes, submit_call
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import Task
from langgraph_rq.shared.telemetry.audit import Action

_BATCH = 200

_log = ClientLog(__name__)


@dataclass(frozen=True, slots=True)
class Submitter:
    """Submits tasks of one tenant.

    Args:
        connection: To Redis.
        door: Judges inputs.
        queue: The base queue.
        times: How long tasks are kept.
        replicas: Which must have a task before it counts.
        share: What the tenant may hold in Redis.
        keys: Sign tasks; None: they are not signed.
        records: Writes the audit log.
        stops: Ends tasks that another one of their thread supersedes.
        warned: Reasons that were logged already.
    """

    connection: Connection
    door: Door
    queue: str
    times: QueueTimes
    replicas: Replicas
    share: Share
    keys: TaskKeys | None
    records: Records
    stops: Stops
    warned: set[str]

    async def each(
        self, tasks: Sequence[Task], multitask: Multitask, about: Mapping[str, bytes]
    ) -> AsyncGenerator[Receipt, None]:
        """Submit tasks, as `ClientCore.submit_each` describes it."""
        warned = iter(await self.door.judge(tasks))
        for start in range(0, len(tasks), _BATCH):
            batch, records = self.records.submit(tasks[start : start + _BATCH], self.queue)
            queues = [task.priority.queue(self.queue) for task in batch]
            calls = [
                submit_call(
                    task,
                    queue,
                    self.times,
                    share=self.share,
                    data=self.keys.sign_task(task) if self.keys else None,
                    multitask=multitask,
                    about=about.get(task.task_id),
                )
                for task, queue in zip(batch, queues, strict=True)
            ]
            # Submitting is idempotent under the id, so a lost reply is answered by asking again.
            answers = await self.connection.run(calls + records, self.replicas)
            superseded = [key for one in answers[: len(batch)] if isinstance(one, Submission) for key in one.stopped]
            if superseded:
                # The new ones are accepted; in an outage workers end the others when their turn comes.
                with suppress(LanggraphRqError):
                    await self.stops.end_superseded(superseded)
            await self._record_refusals(batch, answers)
            refusal: Exception | None = None
            for task, queue, submission in zip(batch, queues, answers[: len(batch)], strict=True):
                warnings = next(warned)
                try:
                    receipt = replace(read_receipt(task, queue, submission), warnings=warnings)
                except (LanggraphRqError, RedisError) as error:
                    refusal = refusal or error  # those behind it were sent with it, and may be queued
                    continue
                self._warn(receipt)
                yield receipt
            if refusal:
                raise refusal

    async def _record_refusals(self, tasks: Sequence[Task], answers: Sequence[Submission | Exception]) -> None:
        """Write into the audit log which of the submissions it has were refused, and why."""
        accepted = {Submitted.CREATED, Submitted.EXISTS}
        records: list[Call[Any]] = []
        for task, answer in zip(tasks, answers, strict=False):  # those of the audit log's own calls follow
            if isinstance(answer, Submission) and answer.outcome not in accepted:
                # Each time these are all entries that Redis has not acknowledged.
                records = self.records.of(Action.REFUSED, task.key, reason=answer.outcome.value)
        if records:
            # In an outage they are sent with the next entry: the caller has to learn of the refusal.
            with suppress(LanggraphRqError):
                await self.connection.run(records)

    def _warn(self, receipt: Receipt) -> None:
        """Log, once for each reason, that no live worker can run what is submitted."""
        if receipt.reason and receipt.reason not in self.warned:
            self.warned.add(receipt.reason)
            _log.warning("task.without_worker", task_id=receipt.task_id, reason=receipt.reason)

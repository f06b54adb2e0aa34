"""The runs that one request cancels: some of a thread, or all that a tenant has open."""

from collections.abc import AsyncGenerator
from typing import Any, Literal

from pydantic import Field

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.objects import MOST_LISTED, read_records, read_runs
from langgraph_rq.producer.gateway.problems import invalid
from langgraph_rq.producer.gateway.tasks.bodies import Body
from langgraph_rq.shared.errors import Violation
from langgraph_rq.shared.queue.keys import tenant_open_key
from langgraph_rq.shared.queue.records import MOST_READ
from langgraph_rq.shared.run_fields import TaskId
from langgraph_rq.shared.tasks import State, task_key

_STATES = {"pending": {State.PENDING}, "running": {State.RUNNING}, "all": {State.PENDING, State.RUNNING}}


class CancelBody(Body):
    """Which runs: `run_ids` of a thread, or all of a status."""

    thread_id: str | None = None
    run_ids: list[TaskId] | None = Field(None, min_length=1, max_length=MOST_LISTED)
    status: Literal["pending", "running", "all"] | None = Field(
        None, description="All open tasks of the tenant, whatever door they came by."
    )

    async def find(self, caller: Caller) -> AsyncGenerator[list[str], None]:
        """Find the ids of those that have not ended, some at a time.

        Raises:
            ProblemError: 422 both are given, or neither.
        """
        of_thread = self.thread_id is not None and self.run_ids is not None
        if (self.status is not None) == of_thread or (self.status and (self.thread_id or self.run_ids)):
            came = "both" if self.status else "neither"
            raise invalid(Violation("status", "either thread_id and run_ids, or status", came))
        if self.status:
            async for run_ids in _open(caller, _STATES[self.status]):
                yield run_ids
            return
        runs = await read_runs(caller, self.thread_id or "", self.run_ids or ())
        yield [run.run_id for run in runs if run and not run.state.is_terminal]


async def _open(caller: Caller, states: set[State]) -> AsyncGenerator[list[str], None]:
    """Find a tenant's open tasks. One that is submitted or ends meanwhile may be missed."""
    key, prefix, cursor, seen = tenant_open_key(caller.tenant), task_key("", caller.tenant), 0, set[bytes]()
    redis: Any = caller.client.redis
    while True:
        cursor, members = await redis.zscan(key, cursor, count=MOST_READ)
        new = [member for member, _ in members if member not in seen]
        seen.update(new)
        records = await read_records(caller, [member.decode(errors="replace") for member in new])
        yield [record.key.removeprefix(prefix) for record in records if record and record.state in states]
        if not cursor:
            return

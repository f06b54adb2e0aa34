"""The trace of a submit, and entries of the audit log, written in the round trip of the call that they describe."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.settings import TelemetrySettings, load
from langgraph_rq.shared.tasks import Task
from langgraph_rq.shared.telemetry.audit import Action, Audit
from langgraph_rq.shared.telemetry.tracing import submitted


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one client; without an audit key there is no audit log."""

    audit: Audit | None

    @classmethod
    def open(cls, settings: TelemetrySettings | None = None) -> Self:
        """Read the settings."""
        settings = settings or load(TelemetrySettings)
        key = settings.audit_key
        return cls(Audit(key.get_secret_value(), settings.audit_days) if key else None)

    def submit(self, tasks: Sequence[Task], base_queue: str) -> tuple[list[Task], list[Call[Any]]]:
        """Put each task into a trace; return the tasks, and the calls to run after submitting them."""
        traced = [submitted(task, task.priority.queue(base_queue)) for task in tasks]
        if self.audit is None:
            return traced, []
        for task in traced:
            self.audit.entry_call(
                Action.RESUMED if task.resume else Action.SUBMITTED,
                task.key,
                graph=task.graph,
                user=task.user_id,
                input_sha256=sha256(task.model_dump_json(include={"input"}).encode()).hexdigest(),
            )
        return traced, list(self.audit.unacknowledged())

    def of(self, action: Action, *task_ids: str, **details: Any) -> list[Call[Any]]:
        """Build the calls that record an action on tasks."""
        if self.audit is None or not task_ids:
            return []
        for task_id in task_ids:
            self.audit.entry_call(action, task_id, **details)
        return list(self.audit.unacknowledged())

"""Settings of the queue and of the tasks that it accepts."""

from pydantic import Field, SecretStr

from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.settings.environment import Settings
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import DEFAULT_LIMITS, Priority, TaskLimits


class QueueSettings(Settings):
    """The queue's name and how long things are kept."""

    queue: str = Field("agent_tasks", pattern=r"^[A-Za-z0-9_-]+$", description="RQ queue of default priority")
    lease_s: float = Field(8.0, ge=1, description="a worker that is silent for this long is taken for dead")
    result_ttl_s: float = Field(3600.0, gt=0, description="keep results this long")
    failed_ttl_s: float = Field(
        86_400.0,
        gt=0,
        description="keep what failed, timed out or was cancelled this long, so that it can be continued",
    )
    events_ttl_s: float = Field(300.0, gt=0, description="keep a task's events this long after its end")
    idempotency_window_s: float = Field(604_800.0, gt=0, description="remember an ended task's id this long")
    question_wait_s: float = Field(
        86_400.0,
        gt=0,
        description="deadlines of tasks that wait for the answer to a question of their thread stand still this long",
    )
    user_tasks: int = Field(0, ge=0, description="tasks of one user in flight at most, in the whole fleet; 0: no limit")
    records: int = Field(
        100_000, ge=1, description="newest runs of a tenant that stay listed, for a day; a thread's as long as it"
    )
    memory_percent: int = Field(85, ge=1, le=99, description="refuse tasks above this share of Redis' maxmemory")

    def times(self, limits: TaskLimits = DEFAULT_LIMITS) -> QueueTimes:
        """The queue's own view of these settings, in milliseconds and bytes."""
        return QueueTimes(
            lease_ms=round(self.lease_s * 1000),
            result_ms=round(self.result_ttl_s * 1000),
            failed_ms=round(self.failed_ttl_s * 1000),
            events_ms=round(self.events_ttl_s * 1000),
            window_ms=round(self.idempotency_window_s * 1000),
            job_bytes=limits.job_bytes,
            memory_percent=self.memory_percent,
            question_ms=round(self.question_wait_s * 1000),
            user_tasks=self.user_tasks,
            records=self.records,
        )

    def queues(self) -> list[str]:
        """The queues of all priorities, the most urgent first."""
        return [priority.queue(self.queue) for priority in Priority]


class TaskSettings(Settings):
    """Largest inputs and results, and what else a task may not exceed."""

    input_bytes: int = Field(DEFAULT_LIMITS.input_bytes, ge=1, description="largest input of a task")
    input_depth: int = Field(32, ge=1, le=100, description="deepest nesting of a task's input")
    max_deadline_s: float = Field(86_400.0, gt=0, description="longest deadline of a task")
    max_attempts: int = Field(10, ge=1, description="largest max_attempts of a task")
    task_keys: SecretStr | None = Field(
        None, description="sign tasks and results: lines tenant:key id:key; workers refuse tasks without a signature"
    )
    result_bytes: int = Field(DEFAULT_LIMITS.result_bytes, ge=1, description="largest result of a task")

    def keys(self) -> TaskKeys | None:
        """The keys of signed tasks; None: tasks are not signed. Raises SettingsError."""
        return TaskKeys.parse(self.task_keys.get_secret_value()) if self.task_keys else None

    def limits(self) -> TaskLimits:
        """The wire contract's own view of these settings."""
        return TaskLimits(
            input_bytes=self.input_bytes,
            result_bytes=self.result_bytes,
            depth=self.input_depth,
            deadline_s=self.max_deadline_s,
            attempts=self.max_attempts,
        )

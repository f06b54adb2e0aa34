"""A worker that a test plays."""

from datetime import UTC, datetime

from langgraph_rq import State
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.queue.attempts import claim_call, finish_call
from langgraph_rq.shared.queue.keys import graph_list
from langgraph_rq.shared.queue.upkeep import renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.tasks import Priority

QUEUES = [priority.queue("agent_tasks") for priority in Priority]
TIMES = QueueTimes()


class Worker:
    """Takes tasks and ends them, without running anything."""

    def __init__(self, redis_url: str) -> None:
        self.redis = open_sync(redis_url)

    def join(self, *graphs: str) -> None:
        scripts.run_sync(
            self.redis, renew_call("w", 60_000, QUEUES, dict.fromkeys(graphs or ["assistant"], "{}"), join=True)
        )

    def end_one(self, state: State = State.SUCCESS) -> str:
        self.join()
        (task,) = scripts.run_sync(self.redis, claim_call("w", 1, QUEUES, graph_list(["assistant"]), TIMES)).tasks
        now = datetime.now(UTC)
        metadata = {"graph": "assistant", "attempts": 1, "queued_ms": 0, "run_ms": 0, "worker": "w"}
        instants = dict.fromkeys(("submitted_at", "started_at", "ended_at"), now)
        result = TaskResult.model_validate({"task_id": task.id, "status": state, "metadata": metadata, **instants})
        scripts.run_sync(
            self.redis, finish_call(task, "w", state, result.model_dump_json(by_alias=True).encode(), TIMES)
        )
        return task.id

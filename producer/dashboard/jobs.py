"""Jobs as rq-dashboard answers them as JSON, with errors masked and the state of the task instead of RQ's status.

RQ knows fewer states: to it an interrupted task is finished, a cancelled one and one past its deadline have failed.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from flask import Response, current_app, request
from redis import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.redaction import Redactor

_ONE, _MANY = "rq_dashboard.job_info", "rq_dashboard.list_jobs"


def corrected(client: Redis, redactor: Redactor) -> Callable[[Response], Response]:
    """Return what is to be done to each response."""

    def correct(response: Response) -> Response:
        document = response.get_json(silent=True) if request.endpoint in {_ONE, _MANY} else None
        if not isinstance(document, dict):
            return response
        jobs: Iterable[dict[str, Any]] = [document] if request.endpoint == _ONE else document.get("jobs", ())
        for job in jobs:
            job["exc_info"] = redactor.redact(job["exc_info"]) if job.get("exc_info") else None
        if request.endpoint == _ONE:
            document["status"] = _state(client, str(document.get("id"))) or document.get("status")
        response.set_data(current_app.json.dumps(document))
        return response

    return correct


def _state(client: Redis, job_id: str) -> str | None:
    with suppress(RedisError):  # not permitted, of another type, or away: RQ's status is shown
        state: Any = client.hget(task_hash(job_id), "state")
        return state.decode(errors="replace") if state else None
    return None

"""What a client of RQ does and sees, for any version of RQ: `python rq_client.py URL ACTION [ID...]` prints JSON."""

import json
import sys
import time
from datetime import timedelta

from redis import Redis
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

REDIS = Redis.from_url(sys.argv[1])
QUEUE = Queue("agent_tasks", connection=REDIS, serializer=JSONSerializer)
NAP = {"graph": "nap", "input": {"seconds": 0}}
WAIT_S = 60


def fetch(job_id):
    return Job.fetch(job_id, connection=REDIS, serializer=JSONSerializer)


def until_status(job_id, *wanted):
    """Poll, as a client does, and return the last status."""
    give_up_at = time.monotonic() + WAIT_S
    while (status := str(getattr(fetch(job_id).get_status(), "value", fetch(job_id).get_status()))) not in wanted:
        if time.monotonic() > give_up_at:
            break
        time.sleep(0.05)
    return status


def enqueue(task, **options):
    return QUEUE.enqueue("langgraph_rq.run_task", task, **options).id


def succeed():
    job_id = enqueue(NAP, description="nightly", result_ttl=50)
    status = until_status(job_id, "finished", "failed")
    job = fetch(job_id)
    return {
        "status": status,
        "value": job.return_value()["result"],
        "description": job.description,
        "ttl": REDIS.ttl(job.key),
        "is_listed": job_id in QUEUE.finished_job_registry.get_job_ids(),
    }


def requeue():
    job_id = enqueue({"graph": "exit", "input": {"code": 4}})
    until_status(job_id, "failed")
    registry = FailedJobRegistry(queue=QUEUE)
    registry.requeue(job_id)
    status = until_status(job_id, "failed")
    return {
        "status": status,
        "is_listed": job_id in registry.get_job_ids(),
        "why": fetch(job_id).latest_result().exc_string,
    }


def enqueue_again():
    job_id = enqueue(NAP)
    until_status(job_id, "finished")
    enqueue(NAP, job_id=job_id)
    return {"status": until_status(job_id, "finished"), "value": fetch(job_id).return_value()["result"]}


def time_out():
    job_id = enqueue({"graph": "nap", "input": {"seconds": 60}}, job_timeout=1)
    return {"status": until_status(job_id, "failed"), "why": fetch(job_id).latest_result().exc_string}


def enqueue_later():
    job_id = QUEUE.enqueue_in(timedelta(seconds=1), "langgraph_rq.run_task", NAP).id
    return {"status": until_status(job_id, "finished")}


def show(*job_ids):
    return {
        "statuses": [str(getattr(fetch(id_).get_status(), "value", fetch(id_).get_status())) for id_ in job_ids],
        "listed": QUEUE.count,
        "deferred": sorted(QUEUE.deferred_job_registry.get_job_ids()),
    }


def empty():
    return {"removed": QUEUE.empty()}


def delete(job_id):
    fetch(job_id).delete()
    return {}


def cancel(job_id):
    fetch(job_id).cancel()
    return {}


sys.stdout.write(json.dumps(globals()[sys.argv[2]](*sys.argv[3:])))

"""C29: collections that hold very many entries, and the time that each script takes beside them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil
from redis import Redis

from langgraph_rq.shared.connections.script_cache import every_script
from langgraph_rq.shared.queue.keys import DELAYED, OPEN, WAITS, queue_key, result_key, task_hash
from tests.chaos.checking.checker import Verdict, Violation
from tests.chaos.run import UNTOUCHED, Run, ids
from tests.chaos.scenarios.crashes import with_violations
from tests.chaos.testbed.graphs import NODES

_QUEUE, _USER, _THREAD = "agent_tasks", "default--ann", "c29"
_FAR_MS = 4_102_444_800_000
_BATCH = 1_000
_LOGGED_US, _LOGGED = 1_000, 100_000
"""What the slow log holds: the figure of the slowest script must not be 0 because all are fast enough."""
_STEPS = replace(UNTOUCHED, steps=[NODES, NODES * 2, NODES * 3, NODES * 4, NODES * 5, NODES * 6])


def fill_every_collection(run: Run) -> Verdict:
    """C29: tasks run beside 200,000 entries in each collection: a user's, a thread's, waiting sets, open tasks."""
    number = run.count(200_000)
    limit_us = int(run.seconds(20_000, 50_000))  # a small version runs beside other tests, which hold Redis up too
    with Redis.from_url(run.stage.redis.url) as redis:
        run.submit(ids("c29-first", 1), graph="chain", user_id="ann", thread_id=_THREAD)
        _fill(redis, number)
        run.submit(ids("c29-thread", 5), graph="chain", user_id="ann", thread_id=_THREAD)
        run.submit(ids("c29", run.count(1_000, 40)), graph="chain", user_id="ann")
        redis.config_set("slowlog-log-slower-than", _LOGGED_US)
        redis.config_set("slowlog-max-len", _LOGGED)
        redis.slowlog_reset()
        workers = run.start(2, 50)
        with _core_of_its_own(run.stage.redis.pid, [worker.pid for worker in workers]):
            run.wait_until(lambda: _all_exist(redis, [result_key(id_) for id_ in run.submitted]))
        scripts = [one for one in redis.slowlog_get(_LOGGED) if one["command"].startswith(b"EVALSHA")]
        redis.config_set("slowlog-log-slower-than", 10_000)
        run.proofs["entries"] = redis.zcard(OPEN)
        redis.delete(OPEN, DELAYED, WAITS, "agent:wait:budget:global")
    run.proofs |= {"scripts of over 1 ms": len(scripts)}
    run.figures["slowest script ms"] = max((one["duration"] / 1_000 for one in scripts), default=0)
    slow = [Violation("slow", "", _describe(one)) for one in scripts if one["duration"] > limit_us]
    return with_violations(run.judge(_STEPS), slow)


@contextmanager
def _core_of_its_own(redis: int, others: Sequence[int]) -> Iterator[None]:
    """Let Redis have a core to itself, where that can be said: SLOWLOG counts the time in which others ran, too.

    What else runs on the machine may use that core: Redis goes before it, where that is allowed. A nice value would not
    do, since Linux shares the cores among sessions first.
    """
    cores = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else []
    if len(cores) < 2:
        yield
        return
    server = psutil.Process(redis)
    server.cpu_affinity(cores[:1])
    for pid in (0, *others):
        os.sched_setaffinity(pid, cores[1:])
    with suppress(PermissionError):
        os.sched_setscheduler(redis, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(redis, os.SCHED_OTHER, os.sched_param(0))
        server.cpu_affinity(cores)
        os.sched_setaffinity(0, cores)


def _describe(entry: Mapping[str, Any]) -> str:
    """Name the script of an entry of the slow log."""
    sha = entry["command"].split()[1].decode()
    name = next((script.name for script in every_script() if script.sha == sha), sha)
    return f"{name} took {entry['duration'] / 1_000:.1f} ms"


def _all_exist(redis: Redis, keys: Sequence[str]) -> bool:
    return int(redis.exists(*keys)) == len(keys)


def _fill(redis: Redis, number: int) -> None:
    """Put ended tasks before all others of a user and a thread, and open and waiting ones everywhere else."""
    ended = {"state": "cancelled", "place": "done", "queue": _QUEUE, "user": _USER, "thread": _THREAD}
    delayed = {"state": "pending", "place": "delayed", "queue": _QUEUE, "user": _USER, "waits_for": "budget:global"}
    for start in range(0, number, _BATCH):
        pipeline = redis.pipeline(transaction=False)
        batch = range(start, min(start + _BATCH, number))
        for i in batch:
            pipeline.hset(task_hash(f"ended-{i}"), mapping=ended)
            pipeline.hset(task_hash(f"delayed-{i}"), mapping=delayed)
        gone, later = [f"ended-{i}" for i in batch], {f"delayed-{i}": _FAR_MS + i for i in batch}
        pipeline.rpush(f"agent:thread:{_THREAD}", *gone)
        pipeline.rpush(f"agent:waiting:{_QUEUE}:{_USER}", *gone)
        pipeline.rpush(queue_key(_QUEUE), *gone)
        pipeline.zadd(f"agent:tenant_line:{_QUEUE}:default", {f"default--lost-{i}": i for i in batch})
        pipeline.zadd(OPEN, later)
        pipeline.zadd(DELAYED, later)
        pipeline.zadd("agent:wait:budget:global", later)
        pipeline.zadd(WAITS, {f"budget:user:{i}": _FAR_MS for i in batch})
        pipeline.execute()

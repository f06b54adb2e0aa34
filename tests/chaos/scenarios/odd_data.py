"""C26: other programs write to Redis."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from redis import Redis

from langgraph_rq.shared.queue.keys import GRAPHS, WORKERS, result_key
from tests.chaos.checking.checker import Verdict, Violation
from tests.chaos.checking.history import record
from tests.chaos.run import CHAIN, Run, ids
from tests.chaos.scenarios.crashes import with_violations
from tests.chaos.testbed.graphs import NODES
from tests.odd_data import PLANT, documented_keys, plant

_WORKER, _THREAD, _TASK = "some-worker", "some-thread", "some-task"
"""In the names of keys, for a worker that lives and the thread and a task of the turn."""
_NAMES = {"worker": _WORKER, "thread": _THREAD, "id": _TASK, "task": _TASK}


def replace_every_key(run: Run) -> Verdict:
    """C26: every key in turn is replaced by another type, at random moments, while tasks run."""
    workers = run.start(2, 20)
    overwritten: set[str] = set()
    planted: dict[str, str] = {}
    with Redis.from_url(run.stage.redis.url) as client:
        for turn in range(run.count(2, 1)):
            keys = documented_keys(**_NAMES, name="openai/gpt-4o-mini", user="default--ann")
            for number, (key, own_kind) in enumerate(run.dice.sample(sorted(keys.items()), len(keys))):
                thread = f"c26-{turn}-{number}"
                many, of_a_thread = ids(thread, 4), ids(f"{thread}-thread", 2)
                run.wait_until(partial(_is_registered, client))
                run.submit(many, graph="chain", user_id="ann")
                run.submit(of_a_thread, graph="chain", thread_id=thread)
                time.sleep(run.dice.uniform(0, 4 * run.size.node_s))
                name = client.zrange(WORKERS, 0, -1)[0].decode()
                kind = run.dice.choice([kind for kind in PLANT if kind != own_kind])
                for worker in workers:
                    record("struck", pid=worker.pid, detail=f"{key} becomes a {kind}")
                own = {many[0]} if _TASK in key else set()  # a key of this task alone: it may end in any way
                live = key.replace(_WORKER, name).replace(_THREAD, thread).replace(_TASK, many[0])
                plant(client, live, kind)
                planted[live] = own_kind
                run.count_proof("replaced keys of one task" if own else "replaced")
                others = [task for task in many + of_a_thread if task not in own]
                run.wait_until(partial(_all_exist, client, [result_key(task) for task in others]))
                overwritten |= own
        run.wait_until(lambda: run.open_now() == 0)
        _drop_what_stays(client, planted, overwritten)
    dead = [Violation("stuck", "", "a worker died of odd data") for worker in workers if not worker.is_alive]
    rules = replace(CHAIN, steps=[NODES, NODES * 2], swept=True, overwritten=overwritten)
    return with_violations(run.judge(rules), dead)


def _drop_what_stays(client: Redis, planted: Mapping[str, str], overwritten: Iterable[str]) -> None:
    """Remove garbage that no script has met since, and what only the hash of a running task could have undone."""
    for key, kind in planted.items():
        if kind and client.type(key).decode() != kind:
            client.delete(key)
    for task in overwritten:
        client.zrem("rq:wip:agent_tasks", f"{task}:1")
    client.delete("agent:in_flight")


def _is_registered(client: Redis) -> bool:
    """Return whether the registers of workers and graphs are as the next renewals leave them."""
    return client.type(WORKERS) == client.type(GRAPHS) == b"zset"


def _all_exist(client: Redis, keys: list[str]) -> bool:
    return int(client.exists(*keys)) == len(keys)

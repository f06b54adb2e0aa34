"""C26: other programs write to Redis."""

import time
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

_WORKER, _THREAD = "some-worker", "some-thread"
"""In the names of keys, for a worker that lives and the thread of the turn."""


def replace_every_key(run: Run) -> Verdict:
    """C26: every key in turn is replaced by another type, at random moments, while tasks run."""
    workers = run.start(2, 20)
    run.proofs["replaced"] = 0
    with Redis.from_url(run.stage.redis.url) as client:
        for turn in range(run.count(2, 1)):
            keys = documented_keys(worker=_WORKER, thread=_THREAD, name="openai/gpt-4o-mini", user="default--ann")
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
                plant(client, key.replace(_WORKER, name).replace(_THREAD, thread), kind)
                run.count_proof("replaced")
                run.wait_until(partial(_all_exist, client, [result_key(task) for task in many + of_a_thread]))
        client.delete("agent:wait:planted")  # the set of a thing that does not exist: no script meets it
    dead = [Violation("stuck", "", "a worker died of odd data") for worker in workers if not worker.is_alive]
    return with_violations(run.judge(replace(CHAIN, steps=[NODES, NODES * 2], swept=True)), dead)


def _is_registered(client: Redis) -> bool:
    """Return whether the registers of workers and graphs are as the next renewals leave them."""
    return client.type(WORKERS) == client.type(GRAPHS) == b"zset"


def _all_exist(client: Redis, keys: list[str]) -> bool:
    return int(client.exists(*keys)) == len(keys)

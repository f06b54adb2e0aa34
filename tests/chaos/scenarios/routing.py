"""C22 and C24: workers that serve different graphs, and graphs that no live worker serves."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from signal import SIGTERM

from langgraph_rq import Client
from langgraph_rq.shared.queue.keys import queue_key, side_queue
from tests.chaos.checking.checker import Verdict, Violation
from tests.chaos.run import UNTOUCHED, Run, ids
from tests.chaos.scenarios.crashes import with_violations
from tests.chaos.testbed.graphs import NODES, SINGLE
from tests.chaos.testbed.stage import WorkerProcess

_QUEUE = "agent_tasks"
_STEPS = replace(UNTOUCHED, steps=[NODES, SINGLE])
_SOON_S = 2.0
_FEW = 5


def flood_with_an_unserved_graph(run: Run) -> Verdict:
    """C22: tasks of a graph that no live worker serves fill the queues; five of another graph end at once."""
    _stop(run, _start(run, "chain"))  # the graph is known: it had a worker
    with run.stage.client() as redis:
        flood = ids("c22", run.count(20_000, 600))
        half = len(flood) // 2
        _submit_for_many_users(run, flood[:half], "chain")  # to the common queue: no worker lives
        _start(run, "single")
        took_s = [_end_few(run, "c22-behind")]
        _submit_for_many_users(run, flood[half:], "chain")
        took_s.append(_end_few(run, "c22-beside"))
        with Client(run.stage.redis.url) as client:
            run.wait_until(lambda: not redis.llen(queue_key(_QUEUE)))
            run.proofs["waiting"] = run.open_now()
            for task in flood:
                client.cancel(task)
        run.wait_until(lambda: not redis.llen(queue_key(side_queue(_QUEUE, "chain"))))  # swept: no worker reads it
    run.figures |= {"five behind them took s": round(took_s[0], 2), "five beside them took s": round(took_s[1], 2)}
    late = [Violation("stuck", "", f"five took {one:.1f} s") for one in took_s if one > _SOON_S and run.size.is_full]
    return with_violations(run.judge(replace(_STEPS, states=("success", "cancelled"))), late)


def _end_few(run: Run, prefix: str) -> float:
    """Submit a few tasks of the graph that is served, and return how long they took (s)."""
    few = ids(prefix, _FEW)
    began = time.monotonic()
    run.submit(few, graph="single", user_id="eve")
    with Client(run.stage.redis.url) as client:
        for task in few:
            client.wait(task, timeout_s=run.size.patience_s)
    return time.monotonic() - began


def replace_the_only_worker_of_a_graph(run: Run) -> Verdict:
    """C24: two workers serve three graphs between them; one of them is replaced after a gap."""
    names = ("chain", "single", "again")
    number = run.count(600, 40)
    for name in names:
        run.submit(ids(f"c24-{name}-early", number), graph=name)  # to the common queue: no worker lives
    first, second = _start(run, "chain"), _start(run, "single", "again")
    for name in names:
        run.submit(ids(f"c24-{name}", number), graph=name)
    _stop(run, second)
    for name in names:
        run.submit(ids(f"c24-{name}-gap", number), graph=name)
    time.sleep(run.seconds(15.0, 1.5 * run.size.lease_s))
    run.proofs["waiting"] = run.open_now()
    _start(run, "single", "again")
    run.wait_until_ended()
    run.figures["exits"] = sum(not worker.is_alive for worker in first)
    verdict = run.judge(_STEPS)
    final = run.stage.read_history(run.submitted).final or {}
    moved = [Violation("repaid", task, f"{last.epoch} attempts") for task, last in final.items() if last.epoch != 1]
    return with_violations(verdict, moved)


def _start(run: Run, *graphs: str) -> list[WorkerProcess]:
    """Start a worker that serves these graphs; `again` is `single` under another name."""
    config = run.stage.run_folder / f"{'-'.join(graphs)}.json"
    spec = "tests.chaos.testbed.graphs:{}".format
    config.write_text(json.dumps({"graphs": {name: spec(name.replace("again", "single")) for name in graphs}}))
    return run.start(1, 50, "--config", str(config))


def _stop(run: Run, workers: Sequence[WorkerProcess]) -> None:
    """Drain workers, and wait until Redis does not know them any more."""
    for worker in workers:
        worker.send(SIGTERM)
    run.wait_until(lambda: not any(worker.is_alive for worker in workers))
    run.count_proof("drained", sum(len(worker.events("worker.stopped")) for worker in workers))


def _submit_for_many_users(run: Run, tasks: Sequence[str], graph: str) -> None:
    """Submit tasks of a hundred users, whose turns come one after the other."""
    for user in range(100):
        run.submit(tasks[user::100], graph=graph, user_id=f"user{user}")

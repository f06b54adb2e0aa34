"""C11, C14, C15, C17: a wrong clock, the same task from many producers, cancels, and garbage on the queue."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.queue.keys import queue_key, task_hash
from tests.chaos.checking.checker import Verdict, Violation
from tests.chaos.checking.history import record
from tests.chaos.run import CHAIN, UNTOUCHED, Run, ids
from tests.chaos.scenarios.crashes import lost_turns, with_violations
from tests.chaos.testbed.graphs import NODES, SINGLE

_SKEWED = "clock an hour ahead"


def skew_a_clock(run: Run) -> Verdict:
    """C11: one worker's clock is an hour ahead; tasks move from it and to it, and so do threads."""
    (skewed,), (right,) = run.start(1, 30, mutant=_SKEWED), run.start(1, 30)
    run.submit(ids("c11", run.count(200, 60)), graph="chain")
    run.wait_until(lambda: run.is_busy(skewed.pid))
    run.kill(skewed)
    run.wait_until_ended()  # a task that crashes twice is isolated, which C9 covers
    (worker,) = run.start(1, 30, mutant=_SKEWED)
    run.submit(ids("c11-more", run.count(200, 60)), graph="chain")
    time.sleep(3 * run.size.node_s)
    run.kill(right)
    run.wait_until_ended()
    steps: dict[str, tuple[str, ...]] = {}
    for turn, mutant in enumerate((_SKEWED, "", _SKEWED)):
        if turn:
            run.kill(worker)
            (worker,) = run.start(1, 30, mutant=mutant)
        for thread in ids("c11-thread", 5):
            steps[f"{thread}-{turn}"] = SINGLE * (turn + 1)
            run.submit([f"{thread}-{turn}"], graph="single", thread_id=thread)
        run.wait_until_ended()
    return with_violations(run.judge(replace(CHAIN, steps=[NODES, *steps.values()])), lost_turns(run, steps))


def submit_many_times(run: Run) -> Verdict:
    """C14: each id is submitted by four producers at the same time."""
    run.start(2, 50)
    wanted = ids("c14", run.count(1_000, 60))
    shuffled = [run.dice.sample(wanted, len(wanted)) for _ in range(4)]
    _at_once([partial(run.submit, some, graph="chain") for some in shuffled])
    run.wait_until_ended()
    run.proofs["submitted again"] = len(run.events("ok")) - len(wanted)
    return run.judge(UNTOUCHED)


def cancel_at_random_times(run: Run) -> Verdict:
    """C15: tasks are cancelled while they wait, run and end."""
    run.start(2, run.count(25, 5))  # fewer at once than there are, so that some wait
    wanted = ids("c15", run.count(500, 60))
    run.submit(wanted, graph="chain")
    with Client(run.stage.redis.url) as client:

        def cancel(some: Sequence[str]) -> None:
            for task in some:
                time.sleep(run.dice.uniform(0, 2 * run.size.node_s))
                record("cancelled", task, detail=client.cancel(task).value)

        shuffled = run.dice.sample(wanted, len(wanted))  # cancels in the order of submission would only follow the work
        _at_once([partial(cancel, shuffled[i::8]) for i in range(8)])
    run.wait_until_ended()
    accepted = [event.detail for event in run.events("cancelled")]
    run.proofs["cancelled while they waited"] = accepted.count("cancelled")
    run.proofs["cancelled while they ran"] = accepted.count("running")
    return run.judge(replace(UNTOUCHED, states=("success", "cancelled")))


def put_garbage_on_the_queue(run: Run) -> Verdict:
    """C17: ids and hashes that no producer of ours wrote are queued between good tasks."""
    workers = run.start(2, 50)
    number = run.count(5_000, 300)
    with Redis.from_url(run.stage.redis.url) as client:
        known = _push_garbage(client, number, run)
        run.submit(ids("c17", run.count(500, 30)), graph="chain")
        _push_garbage(client, number // 10, run, "later")
        run.wait_until(lambda: client.llen(queue_key("agent_tasks")) == 0)
        run.wait_until_ended()
        ended = [client.hget(task_hash(task), "state") for task in known]
        left = client.llen(queue_key("agent_tasks"))
    dropped = sum(len(worker.events("job.dropped")) for worker in workers)
    run.proofs |= {"rejected": ended.count(b"error"), "dropped": dropped}
    verdict = run.judge(UNTOUCHED)
    accepted = [task for task, state in zip(known, ended, strict=True) if state != b"error"]
    more = [Violation("unexpected", task, "garbage was not rejected") for task in accepted]
    more += [Violation("stuck", "", "a worker died of garbage") for worker in workers if not worker.is_alive]
    return with_violations(verdict, more + [Violation("stuck", "", f"{left} left on the queue")] * bool(left))


_GARBAGE: Sequence[Any] = (
    None,  # no job behind the id
    "a string where a hash should be",
    {"data": b"\x80\x04}"},
    {"data": b"not json"},
    {"data": b'["os.system",null,["true"],{}]'},
    {"data": b'["worker.run_task",null,[{"graph":"chain","input":{"a":NaN}}],{}]'},
    {"data": b'["worker.run_task",null,[{"graph":"chain","input":[]}],{}]'},
    {"data": b'["worker.run_task",null,[{"graph":"chain","input":{}}],{}]', "success_callback_name": "os.abort"},
    {"data": b"x" * 400_000},
    {"origin": "nothing else"},
)


def _push_garbage(client: Redis, number: int, run: Run, prefix: str = "garbage") -> list[str]:
    """Push ids; return those whose job must be rejected."""
    known = []
    pipeline = client.pipeline(transaction=False)
    for i in range(number):
        job, task = _GARBAGE[i % len(_GARBAGE)], f"{prefix}-{i}"
        if i % 50 == 49:
            pipeline.rpush(queue_key("agent_tasks"), run.dice.randbytes(40))
        elif isinstance(job, str):
            pipeline.set(f"rq:job:{task}", job)
        elif job:
            pipeline.hset(f"rq:job:{task}", mapping=job)
        if i % 50 != 49 and job:
            known.append(task)
        pipeline.rpush(queue_key("agent_tasks"), task)
        if i % 100 == 99:
            pipeline.execute()
    pipeline.execute()
    return known


def _at_once(steps: Sequence[Callable[[], object]]) -> None:
    """Run the steps in a thread each."""
    threads = [threading.Thread(target=step) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

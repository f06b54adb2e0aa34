"""C32: Sentinel promotes a replica that lacks the last writes and whose clock is behind, and later another one."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread
from unittest.mock import patch

from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, BreakerState, read_all_call
from langgraph_rq.shared.budget.token_budget import RESERVATIONS, BudgetLimits, usage_call
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.errors import RedisUnavailableError
from tests import clocks
from tests.chaos.checking.checker import Rules, Verdict, Violation
from tests.chaos.checking.history import record
from tests.chaos.run import Run, ids, submit_batch
from tests.chaos.scenarios.crashes import lost_turns, with_violations
from tests.chaos.testbed.graphs import NODES
from tests.deployment import make_secrets, role_url
from tests.sentinels import SERVICE, Watched, follow, open_as_admin, port_of, watched

BEHIND_S = 10.0
_WITH_WAIT = {"LGRQ_SUBMIT_REPLICAS": "1", "LGRQ_SUBMIT_REPLICAS_TIMEOUT_S": "0.2"}
_TURNS = 3
_LAG_S = 0.5
"""How long the replicas get nothing before the primary dies."""
_PAUSE_S = 0.05
_OPEN_S = 3.0
"""The breaker is open for so long: also while the primary dies."""
_RULES = Rules(steps=[NODES], repays_failed=True, crashes=False, forgets=True)


def fail_over(run: Run, environment: dict[str, str] = _WITH_WAIT) -> Verdict:
    """C32: the primary dies; the promoted replica is 0.5 s, its clock 10 s behind; then the first one comes back."""
    secrets = make_secrets(run.stage.run_folder / "secrets")
    limits = BudgetLimits(daily_tokens=10_000_000)
    with (
        patch.dict(os.environ, environment),
        watched(run.stage.run_folder, secrets=secrets, behind_s=BEHIND_S) as redis,
    ):
        run.stage.find_redis = lambda: role_url(redis.promoted(), "admin", secrets)
        run.start(
            run.count(4, 2),
            30,
            redis_url=redis.url_of("worker"),
            LGRQ_BUDGET_DAILY_TOKENS=str(limits.daily_tokens),
            LGRQ_BREAKER_OPEN_S=str(_OPEN_S),
            LGRQ_BREAKER_MAX_OPEN_S=str(_OPEN_S),
        )
        threads = ids("c32-thread", run.count(100, 10))
        with _submitting(run, redis), _conversing(run, redis, threads):
            _open_the_breaker(run)
            _kill_the_primary(run, redis)
            _await_progress(run)
            _return_to_the_first(run, redis)
            _await_progress(run)
        run.wait_until_ended()
        run.proofs["unanswered submits"] = len(run.events("unknown"))
        steps = {f"{thread}-{turn}": NODES * (turn + 1) for thread in threads for turn in range(_TURNS)}
        verdict = run.judge(replace(_RULES, steps=[NODES * (turn + 1) for turn in range(_TURNS)]))
        return with_violations(
            verdict, [*lost_turns(run, steps), *_stuck_guards(run, redis, limits), *_refusals(redis)]
        )


def _open_the_breaker(run: Run) -> None:
    run.stage.model.admin.set_faults([{"fault": "500"}])
    run.wait_until(lambda: run.events("opened"))
    run.stage.model.admin.set_faults([])


def _kill_the_primary(run: Run, redis: Watched) -> None:
    """Cut the replicas off, and kill the primary when they are behind."""
    primary, *replicas = redis.servers
    password = dict.fromkeys(replicas, "")
    for server in replicas:
        with open_as_admin(server, redis.secrets) as client:
            password[server] = client.config_get("masterauth")["masterauth"]
            client.config_set("masterauth", "another")
    with open_as_admin(primary, redis.secrets) as client:
        ahead_s = clocks.seconds_of(client) - time.monotonic()
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        at = client.info("replication")["master_repl_offset"]
        time.sleep(_LAG_S)
        run.proofs["bytes not replicated"] = client.info("replication")["master_repl_offset"] - at
    primary.kill()
    record("struck", pid=primary.pid, detail="kill -9 of the primary")
    for server in replicas:
        with open_as_admin(server, redis.secrets) as client:
            client.config_set("masterauth", password[server])
    run.wait_until(lambda: redis.promoted() is not primary)
    run.count_proof("failovers")
    with open_as_admin(redis.promoted(), redis.secrets) as client:
        behind_s = round(time.monotonic() + ahead_s - clocks.seconds_of(client), 1)
    if clocks.MISSING:
        run.figures["clocks agree, without libfaketime"] = 1
    else:
        run.proofs["clock behind s"] = behind_s


def _return_to_the_first(run: Run, redis: Watched) -> None:
    """Let the first server follow, and end the primary as an operator does: the next one's clock is ahead of it."""
    first, behind = redis.primary, redis.promoted()
    first.start()
    follow(first, behind, redis.secrets)
    for server in redis.servers:
        with open_as_admin(server, redis.secrets) as client:
            client.config_set("replica-priority", 100 if server is first else 0)
    run.wait_until(lambda: all(_prefers(sentinel, port_of(first)) for sentinel in redis.sentinels))
    behind.stop()
    run.wait_until(lambda: redis.promoted() is first)
    run.count_proof("failovers")


def _prefers(sentinel: Redis, port: int) -> bool:
    """Return whether the sentinel knows that it may promote this replica, and no other."""
    may = [int(one["port"]) for one in sentinel.sentinel_slaves(SERVICE) if int(one["slave-priority"])]
    return may == [port]


def _await_progress(run: Run) -> None:
    """Wait until tasks are accepted and end again."""
    accepted, ended = len(run.events("ok")), len(run.events("wrote"))
    run.wait_until(lambda: len(run.events("ok")) > accepted + 20 and len(run.events("wrote")) > ended + 20)


@contextmanager
def _submitting(run: Run, redis: Watched) -> Iterator[None]:
    """Submit tasks until the block ends; an unanswered one is not repeated."""
    stopping = Event()

    def submit() -> None:
        number = 0
        with Client(redis.url_of("producer")) as client:
            while not stopping.wait(_PAUSE_S):
                task = f"c32-{number}"
                run.submitted.append(task)
                submit_batch(client, [task], graph="chain", max_attempts=10)
                number += 1

    with _in_background(submit, stopping):
        yield


@contextmanager
def _conversing(run: Run, redis: Watched, threads: Sequence[str]) -> Iterator[None]:
    """Submit turn after turn of threads, each until it is acknowledged; the last ones after the block has ended."""
    stopping = Event()

    def converse() -> None:
        with Client(redis.url_of("producer")) as client:
            for turn in range(_TURNS):
                for thread in threads:
                    _submit_until_known(run, client, f"{thread}-{turn}", thread)
                if turn < _TURNS - 1:
                    stopping.wait(_PAUSE_S * 20)

    with _in_background(converse, stopping):
        yield


def _submit_until_known(run: Run, client: Client, task: str, thread: str) -> None:
    run.submitted.append(task)
    record("invoked", task)
    while True:
        try:
            client.submit({}, graph="chain", thread_id=thread, task_id=task, max_attempts=10)
        except RedisUnavailableError:
            continue
        record("ok", task)
        return


@contextmanager
def _in_background(work: object, stopping: Event) -> Iterator[None]:
    thread = Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _stuck_guards(run: Run, redis: Watched, limits: BudgetLimits) -> list[Violation]:
    """Find a breaker that stays open, and what stays held when reservations whose end was forgotten have expired."""
    with open_sync(redis.url_of("worker")) as client:
        breakers = run_sync(client, read_all_call(BreakerLimits()))
        run.figures["forgotten reservations"] = forgotten = int(client.zcard(RESERVATIONS))
        if forgotten:  # they would expire in a minute and a half
            client.zadd(RESERVATIONS, dict.fromkeys(client.zrange(RESERVATIONS, 0, -1), 1))
            run.wait_until(lambda: client.zcard(RESERVATIONS) == 0)
        held = run_sync(client, usage_call(limits)).tokens.held
    stuck = [f"the breaker {one.name} is {one.state}" for one in breakers if one.state is not BreakerState.CLOSED]
    return [Violation("stuck", "", what) for what in stuck + [f"{held} tokens are held"] * bool(held)]


def _refusals(redis: Watched) -> list[Violation]:
    """Find what the shipped users were refused; a producer finds out so that a script is not loaded yet."""
    found = []
    for server in (server for server in redis.servers if server.directory.exists()):
        with open_as_admin(server, redis.secrets) as client:
            found += [(entry["username"], entry["object"]) for entry in client.acl_log()]
    return [Violation("unexpected", "", f"refused: {one}") for one in found if one != ("producer", "script|load")]

"""C3, C4, C5, C6, C10, C25: Redis is killed, freezes, loses replies, is unreachable, and is full."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL

from psycopg.conninfo import conninfo_to_dict
from redis import Redis

from langgraph_rq.shared.connections.scripts import Script, load_script
from tests.chaos.checking.checker import Blackout, Verdict
from tests.chaos.checking.history import record
from tests.chaos.run import CHAIN, UNTOUCHED, Run, ids
from tests.chaos.scenarios.crashes import lost_turns, with_violations
from tests.chaos.testbed.graphs import FLAKY, NODES, SINGLE
from tests.chaos.testbed.instrument import GATE
from tests.chaos.testbed.proxy import Proxy
from tests.chaos.testbed.stage import WorkerProcess
from tests.postgres import SOCKET as POSTGRES_SOCKET


def restart_redis(run: Run) -> Verdict:
    """C3: Redis is killed with kill -9 and comes back after 0.3, 2 and 20 s, with the producer running."""
    run.start(4 if run.size.is_full else 2, 50)
    number = run.count(2_000, 150)
    pause_s = run.seconds(0.1, 0.4)
    with run.submitting(ids("c3", number), pause_s=pause_s, graph="chain"):
        for down_s in run.seconds_each((0.3, 2.0, 20.0), (0.2, 2.5)):
            time.sleep(run.seconds(5.0, 0.7))
            run.stage.redis.kill()
            time.sleep(down_s)
            run.stage.redis.start()
            run.count_proof("restarts")
    run.wait_until_ended()
    return run.judge(UNTOUCHED)


def freeze_redis(run: Run) -> Verdict:
    """C4: Redis does not answer for 5 s."""
    workers = run.start(3, 50)
    run.submit(ids("c4", run.count(500, 60)), graph="chain")
    with run.stage.client() as client:
        time.sleep(2 * run.size.node_s)
        began = time.monotonic()
        client.client_pause(round(run.seconds(5.0, 3.0) * 1000), all=True)
        client.ping()
        run.proofs["frozen s"] = round(time.monotonic() - began, 1)
    run.wait_until_ended()
    run.figures["exits"] = sum(not worker.is_alive for worker in workers)
    return run.judge(UNTOUCHED)


_TURNS = 3
_OFTEN = {"admit", "settle", "begin", "save"}
_BY_THE_LEASE = {"reap", "sweep", "renew"}


def scripts() -> dict[str, Script]:
    """Return the scripts whose replies are lost, in order: a lost renewal keeps a worker from reaping for a while."""
    folders = {
        "shared/queue/scripts": ("reap", "sweep", "submit", "claim", "finish", "release"),
        "worker/guards/scripts": ("admit", "settle"),
        "worker/state/saver/scripts": ("begin", "save"),
    }
    found = {verb: load_script(f"{folder}/{verb}") for folder, verbs in folders.items() for verb in verbs}
    return found | {"renew": load_script("shared/queue/scripts/renew")}


def lose_replies(run: Run) -> Verdict:
    """C5: one in k replies is lost, at random, of each script in turn."""
    with proxy(run) as between:
        run.start(2, 20, redis_url=between.url)
        number = run.count(1_000, 72)
        found = scripts()
        for verb, script in found.items():
            before = between.dropped
            between.lose_replies(script.sha, 7 if verb in _OFTEN else 3)
            run.tell(verb)
            fields = {"graph": "flaky", "max_attempts": 3} if verb == "release" else {"graph": "chain"}
            each = number // len(found) * (2 if verb == "submit" else 1)  # its first round trip passes
            names = ids(f"c5-{verb}", each)
            if verb == "begin":  # a task without a thread begins with its first write
                for name in names:
                    run.submit([name], redis_url=between.url, thread_id=name, **fields)
            else:
                run.submit(names, redis_url=between.url, **fields)
            if verb in _BY_THE_LEASE:
                run.wait_until(lambda before=before: between.dropped > before)
            run.wait_until(lambda: run.open_now() == 0)
            run.proofs[f"lost replies of {verb}"] = between.dropped - before
        between.lose_replies("", 0)
        run.wait_until_ended()
        return run.judge(replace(UNTOUCHED, steps=[NODES, FLAKY]))


def cut_off_a_worker(run: Run) -> Verdict:
    """C6: one worker cannot reach Redis for 30 s."""
    with proxy(run) as between:
        (lonely,) = run.start(1, 50, redis_url=between.url)
        run.start(2, 50)
        run.submit(ids("c6", run.count(500, 60)), graph="chain")
        run.wait_until(lambda: run.is_busy(lonely.pid))
        record("struck", pid=lonely.pid, detail="cut off")
        cut_at = time.monotonic()
        between.cut()
        until = cut_at + run.seconds(30.0, 3 * run.size.lease_s)
        while time.monotonic() < until:
            time.sleep(0.1)
        between.heal()
        run.wait_until_ended()
        run.wait_until(lambda: any(event.pid == lonely.pid for event in run.events("fenced")))
        run.proofs["fenced"] = 0
        silent = Blackout(lonely.pid, cut_at + run.size.lease_s, until)
        verdict = run.judge(replace(CHAIN, blackouts=(silent,)))
        run.figures["exits"] = not lonely.is_alive
        return verdict


_BEFORE_THE_GATE = 3
"""Checkpoints of a run of `held` before its second node."""


def deliver_late(run: Run) -> Verdict:
    """C25: a worker is cut off for three leases, and what it wrote meanwhile arrives two turns late.

    Its nodes end only then, so that its checkpoints are the newest by their ids.
    """
    gate = run.stage.run_folder / "gate"
    threads = ids("c25-thread", run.count(30, 10))
    with proxy(run) as between, _state_proxy(run) as (state, settings):
        (lonely,) = run.start(1, len(threads), redis_url=between.url, **{GATE: str(gate)}, **settings)
        _submit_turn(run, threads, 0)
        saved = _BEFORE_THE_GATE * len(threads)
        run.wait_until(lambda: _puts(run, lonely, "saved") >= saved)
        record("struck", pid=lonely.pid, detail="cut off")
        cut_at = time.monotonic()
        for way in (between, state):
            way.cut()
        run.start(2, 50)
        run.wait_until_ended()
        _submit_turn(run, threads, 1)
        run.wait_until_ended()
        gate.touch()
        run.wait_until(lambda: state.late and time.monotonic() - cut_at > 3 * run.size.lease_s)
        state.heal()  # before Redis tells it that its runs are over
        run.wait_until(lambda: _puts(run, lonely, "fenced") or _puts(run, lonely, "saved") > saved)
        between.heal()
        run.wait_until(lambda: any(event.pid == lonely.pid for event in run.events("fenced")))
        run.proofs["cut s"] = round(time.monotonic() - cut_at)
        lonely.send(SIGKILL)  # without the proxies it would wait for its state
    _submit_turn(run, threads, 2)
    run.wait_until_ended()
    run.figures["late checkpoints refused"] = sum(event.detail == "checkpoint" for event in run.events("fenced"))
    expected = {f"{thread}-{turn}": SINGLE * (turn + 1) for thread in threads for turn in range(_TURNS)}
    verdict = run.judge(replace(CHAIN, steps=list(expected.values())))
    return with_violations(verdict, lost_turns(run, expected))


@contextmanager
def _state_proxy(run: Run) -> Iterator[tuple[Proxy, Mapping[str, str]]]:
    """Put a proxy in front of where the stage's workers keep state; the settings of a worker that goes through it."""
    url = run.stage.postgres_url
    if url is None:
        with proxy(run, "state.sock") as between:
            yield between, {"LGRQ_CHECKPOINT_REDIS_URL": between.url}
        return
    folder, host = run.stage.run_folder / "postgres", str(conninfo_to_dict(url)["host"])
    folder.mkdir()
    with Proxy(folder / POSTGRES_SOCKET, Path(host) / POSTGRES_SOCKET).serve() as between:
        yield between, {"LGRQ_STATE_URL": url.replace(host, str(folder))}


def _puts(run: Run, worker: WorkerProcess, kind: str) -> int:
    """Count the checkpoints of a worker that were `saved` or `fenced`."""
    return sum(event.pid == worker.pid and event.detail == "checkpoint" for event in run.events(kind))


def _submit_turn(run: Run, threads: Sequence[str], turn: int) -> None:
    for thread in threads:
        run.submit([f"{thread}-{turn}"], graph="held", thread_id=thread)


def fill_memory(run: Run) -> Verdict:
    """C10: tasks are submitted until Redis refuses them at its memory limit; no worker takes them meanwhile."""
    run.start(2, 20, "--queues", "agent_tasks")
    run.submit(ids("c10", run.count(200, 30)), graph="chain")
    payload = {"text": "x" * 20_000}
    with run.stage.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 40_000_000)
        flood = ids("flood", 10_000)
        while flood and not run.events("refused"):
            run.submit(flood[:100], graph="single", input=payload, priority="low")
            flood = flood[100:]
        refused = run.events("refused")
        run.submit(ids("c10-late", 1), graph="chain")
        run.wait_until(lambda: client.hlen("agent:in_flight") == 0)
        full_at = min((event.at for event in refused), default=float("inf"))
        ended = sum(event.at > full_at for event in run.events("wrote"))
        run.proofs |= {"refused": len(refused), "ended with memory full": ended}
        client.config_set("maxmemory", 0)
    run.start(2, 20)
    run.wait_until_ended()
    return run.judge(replace(UNTOUCHED, steps=[NODES, SINGLE]))


@contextmanager
def proxy(run: Run, name: str = "proxy.sock") -> Iterator[Proxy]:
    """Put a proxy in front of the stage's Redis."""
    redis_socket = Path(Redis.from_url(run.stage.redis.url).connection_pool.connection_kwargs["path"])
    with Proxy(run.stage.run_folder / name, redis_socket).serve() as between:
        yield between

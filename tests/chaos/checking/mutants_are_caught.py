"""With one rule of the product disabled, the checker of the chaos runs reports the violation that the rule prevents.

Half a minute on a quiet machine, so not a part of `make test`: `python -m tests.chaos --mutants` runs it.
"""

import time
from dataclasses import replace
from signal import SIGCONT, SIGSTOP

import pytest

from langgraph_rq.shared.connections.scripts import load_script, make_script
from langgraph_rq.shared.queue import verbs
from tests.chaos.checking.checker import Blackout
from tests.chaos.run import CHAIN, SMALL, UNTOUCHED, Run, ids
from tests.chaos.scenarios import failover
from tests.chaos.scenarios.redis import proxy
from tests.chaos.scenarios.table import SCENARIOS
from tests.chaos.testbed.stage import open_stage

SMALLER = replace(SMALL, patience_s=8.0)
"""A mutant may leave tasks stuck: do not wait long for them."""


@pytest.fixture(scope="module")
def stage():
    with open_stage() as one:
        yield one


@pytest.fixture
def mutated(stage):
    def run(mutant, **size):
        stage.reset(SMALLER.node_s)
        return Run(stage, replace(SMALLER, **size), mutant)

    return run


def test_queue_that_lets_a_former_owner_write_a_result_is_caught(mutated):
    run = mutated("finish without a fence")
    run.start(1, 1)
    run.submit(["stop-before-queue_finish-1"], graph="single")
    run.wait_until(lambda: run.events("struck"))
    run.start(1, 1)
    run.wait_until_ended()
    run.stage.workers[0].send(SIGCONT)
    run.wait_until(lambda: len(run.events("wrote")) > 1)
    assert "duplicated" in run.judge(replace(CHAIN, steps=[("one",)])).kinds


def test_submit_without_idempotency_is_caught(mutated, monkeypatch):
    run = mutated("")
    script = load_script("shared/queue/scripts/submit")
    mutant = make_script(script.name, script.source.replace("if known[2] then", "if false then"))
    monkeypatch.setattr(verbs, "load_script", lambda name: mutant if name == script.name else load_script(name))
    run.start(1, 10)
    for _ in range(2):
        run.submit(ids("t", 4), graph="single")
        run.wait_until_ended()
    assert {"duplicated", "repaid"} & run.judge(replace(UNTOUCHED, steps=[("one",)])).kinds


def test_claim_that_does_not_note_its_owner_is_caught(mutated):
    run = mutated("a claim forgets the owner")
    (worker,) = run.start(1, 4)
    run.stage.model.admin.set_latency(1.0)
    run.submit(ids("t", 4), graph="chain")
    run.wait_until(lambda: run.is_busy(worker.pid))
    run.kill(worker)
    run.start(1, 4)
    run.wait_until_ended()
    assert {"swept", "stuck", "lost", "repaid"} & run.judge().kinds


def test_claim_of_what_the_worker_does_not_serve_is_caught(mutated):
    run = mutated("a claim takes what its worker does not serve", patience_s=30.0)
    assert "repaid" in SCENARIOS["C24"](run).kinds


def test_former_owner_that_goes_on_calling_is_caught(mutated):
    run = mutated("former owners go on")
    run.stage.model.admin.set_latency(0.5)
    (stopped,) = run.start(1, 4)
    run.submit(ids("t", 4), graph="chain")
    run.wait_until(lambda: run.is_busy(stopped.pid))
    stopped.strike(SIGSTOP, "SIGSTOP")
    run.start(1, 4)
    run.wait_until_ended()
    stopped.send(SIGCONT)
    run.wait_until(lambda: "repaid" in run.judge().kinds)


def test_worker_that_calls_after_its_lease_is_caught(mutated):
    run = mutated("calls after the lease", patience_s=15.0)
    with proxy(run) as between:
        run.stage.model.admin.set_latency(0.3)
        (lonely,) = run.start(1, 10, redis_url=between.url)
        run.submit(ids("t", 10), graph="chain")
        run.wait_until(lambda: run.is_busy(lonely.pid))
        cut_at = time.monotonic()
        between.cut()
        time.sleep(run.size.lease_s)
        between.heal()
        run.wait_until_ended()
        silent = Blackout(lonely.pid, cut_at + run.size.lease_s - 1, float("inf"))
        assert "late call" in run.judge(replace(CHAIN, blackouts=[silent])).kinds


def test_blocking_task_that_is_not_marked_is_caught(mutated):
    run = mutated("a blocking task is not marked", patience_s=60.0)
    assert "false reap" in SCENARIOS["C31"](run).kinds


def test_cancel_that_admission_does_not_see_is_caught(mutated):
    run = mutated("a cancel is not seen")
    verdict = SCENARIOS["C15"](run)
    assert "late call" in verdict.kinds


def test_claims_that_are_lost_and_never_given_back_are_caught(mutated):
    run = mutated("unknown tasks are not given back")
    with proxy(run) as between:
        run.start(1, 10, redis_url=between.url)
        between.lose_replies(load_script("shared/queue/scripts/claim").sha, 1)
        run.submit(ids("t", 10), graph="chain", pause_s=0.5)  # in two batches: the first claim gets its reply
        run.wait_until(lambda: between.dropped)
        between.lose_replies("", 0)
        run.wait_until_ended()
        assert "stuck" in run.judge(UNTOUCHED).kinds


def test_result_that_is_committed_only_once_is_caught(mutated):
    run = mutated("a result is committed once only")
    (worker,) = run.start(1, 1, LGRQ_CHECKPOINTS="false")
    run.submit(["stop-before-queue_finish-1"], graph="single")
    run.wait_until(lambda: run.events("struck"))
    run.stage.redis.kill()
    worker.send(SIGCONT)
    run.wait_until(lambda: run.events("gave up"))
    run.stage.redis.start()
    run.wait_until_ended()
    assert "repaid" in run.judge(replace(UNTOUCHED, steps=[("one",)])).kinds


def test_submit_that_does_not_wait_for_replicas_is_caught(mutated):
    run = mutated("", patience_s=60.0)
    assert "lost" in failover.fail_over(run, {"LGRQ_SUBMIT_REPLICAS": "0"}).kinds


def test_reaping_right_after_an_outage_is_caught(mutated):
    run = mutated("reaping right after an outage")
    run.stage.model.admin.set_latency(2.0)
    run.start(3, 10)
    run.submit(ids("t", 20), graph="chain")
    run.wait_until(lambda: run.events("start"))
    run.stage.redis.kill()
    time.sleep(run.size.lease_s + 1)
    run.stage.redis.start()
    run.wait_until_ended()
    assert "false reap" in run.judge(UNTOUCHED).kinds


def test_late_checkpoint_that_is_not_refused_is_caught(mutated):
    assert "garbled" in SCENARIOS["C25"](mutated("checkpoints without a fence", patience_s=30.0)).kinds


def test_checkpoint_that_outlives_a_worker_which_dies_at_the_end_of_its_task_is_caught(mutated):
    assert "for ever" in SCENARIOS["C7"](mutated("checkpoints without a time to live", patience_s=60.0)).kinds


def test_late_checkpoint_that_postgres_does_not_refuse_is_caught():
    with open_stage("postgres") as stage:
        stage.reset(SMALLER.node_s)
        run = Run(stage, replace(SMALLER, patience_s=30.0), "checkpoints in Postgres without a fence")
        assert "garbled" in SCENARIOS["C25"](run).kinds

"""The breaker in Redis and the breaker in plain Python answer alike, whatever happens to them."""

import asyncio
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, allow_call, read_call, report_call
from langgraph_rq.shared.connections.scripts import run
from tests.models.circuit_breaker import BreakerModel
from tests.models.circuit_breaker_machine import BreakerMachine

NOW = 1_800_000_000_000


@pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.slow)])
def test_any_history_leaves_redis_and_the_model_in_the_same_state(redis_url, examples):
    with Redis.from_url(redis_url) as client:
        run_state_machine_as_test(
            lambda: BreakerMachine(client, {}),
            settings=settings(
                max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


async def test_concurrent_callers_get_what_the_model_answers_in_the_order_of_the_server(aredis):
    limits = BreakerLimits(failure_threshold=3, open_s=0.02, max_open_s=0.1, probe_lease_s=0.03, probes=2)
    random, history, admitted = Random(20261123), [], []

    async def ask_server(verb, call, *arguments):
        """Answer as `run` does; the transaction numbers the calls in the order in which the server ran them."""
        pipeline = aredis.pipeline(transaction=True)
        order, reply = await pipeline.incr("order").execute_command(*call.command).execute()
        history.append((order, verb, arguments, call.decode(reply)))
        return call.decode(reply)

    async def ask(token, now):
        admission = await ask_server("allow", allow_call("x", token, limits, now_ms=now), token, now)
        if admission.admitted:
            admitted.append((token, admission.generation))

    async def report(token, generation, now):
        what = (token, generation, random.choice([*Outcome, Outcome.FAIL, Outcome.FAIL]))
        await ask_server("report", report_call("x", *what, limits, retry_after_ms=5, now_ms=now), *what, 5, now)

    await run(aredis, report_call("x", "first", 0, Outcome.IGNORE, limits, now_ms=NOW))
    await run(aredis, allow_call("x", "first", limits, now_ms=NOW))
    for now in range(NOW, NOW + 600, 10):
        reports = [admitted.pop(random.randrange(len(admitted))) for _ in range(len(admitted) * 2 // 3)]
        steps = [report(*call, now) for call in reports] + [ask(f"{now}-{i}", now) for i in range(20)]
        random.shuffle(steps)
        await asyncio.gather(*steps)

    model = BreakerModel("x", limits, known=True)
    for _order, verb, arguments, answer in sorted(history, key=lambda entry: entry[0]):
        assert getattr(model, verb)(*arguments) == answer
    assert await run(aredis, read_call("x", limits, now_ms=now)) == model.status(now)
    assert model.generation > 10

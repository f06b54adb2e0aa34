"""A worker obeys the fleet's limits, and says which of its settings differ."""

import asyncio
import shlex
from dataclasses import replace

import pytest
from click.testing import CliRunner

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.budget.policy import read_policy_call, set_limit_call, set_option_call
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Hold
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.pacing.learned_rates import learn_call
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.settings import BudgetSettings, load
from langgraph_rq.worker.guards.fleet_limits import follow_limits, known_paces, obeyed_limits
from tests.waiting import until

OWN = BudgetLimits(daily_tokens=5_000, daily_cost_nano_usd=12_500_000_000, hold=Hold.WORST, call_output_tokens=7)

GIVEN = {"LGRQ_BUDGET_DAILY_TOKENS", "LGRQ_BUDGET_DAILY_USD", "LGRQ_BUDGET_HOLD"}


async def test_first_worker_of_a_fleet_obeys_its_own_settings(aredis, caplog):
    assert await obeyed_limits(aredis, OWN, GIVEN) == OWN
    assert "settings_differ" not in caplog.text


async def test_later_workers_obey_the_fleet_and_warn_of_each_difference(aredis, caplog, redis_url, monkeypatch):
    await run(aredis, set_limit_call(BudgetLimits(), "global", tokens=9_000))
    obeyed = await obeyed_limits(aredis, OWN, GIVEN)
    assert obeyed == BudgetLimits(daily_tokens=9_000, call_output_tokens=7)
    warnings = [line for line in caplog.text.splitlines() if "budget.settings_differ" in line]
    assert len(warnings) == 3
    assert "setting=LGRQ_BUDGET_DAILY_TOKENS own=5000 fleet=9000" in warnings[0]
    # Each warning names the command that makes them equal.
    monkeypatch.setenv("REDIS_URL", redis_url)
    for line in warnings:
        command = shlex.split(line.partition("command=")[2].strip("'\""))
        name, *arguments = shlex.split(command[0]) if len(command) == 1 else command
        assert name == "langgraph-producer"
        changed = CliRunner().invoke(main, arguments)
        assert changed.exit_code == 0, changed.output
    caplog.clear()
    assert await obeyed_limits(aredis, OWN, GIVEN) == OWN
    assert "settings_differ" not in caplog.text


async def test_default_that_differs_from_the_fleet_is_no_warning(aredis, caplog, monkeypatch):
    await run(aredis, set_limit_call(BudgetLimits(), "global", tokens=9_000, cost_nano_usd=1))
    monkeypatch.setenv("LGRQ_BUDGET_USER_DAILY_TOKENS", "100")
    settings = load(BudgetSettings)
    await obeyed_limits(aredis, settings.limits(), settings.given())
    (warning,) = [line for line in caplog.text.splitlines() if "budget.settings_differ" in line]
    assert "setting=LGRQ_BUDGET_USER_DAILY_TOKENS" in warning


async def test_worker_that_cannot_ask_begins_with_its_own_settings():
    async with open_async("unix:///nowhere/redis.sock") as redis:
        assert await obeyed_limits(redis, OWN, GIVEN) == OWN


@pytest.mark.parametrize("limits", [OWN, BudgetLimits()])
async def test_limits_of_the_fleet_are_those_that_it_was_given(limits, aredis):
    await run(aredis, set_limit_call(limits, "global", tokens=""))
    policy = await run(aredis, read_policy_call())
    assert policy
    assert (await obeyed_limits(aredis, limits, GIVEN)) == limits


async def test_worker_follows_the_fleets_limits_while_it_runs(aredis, caplog):
    await run(aredis, set_limit_call(OWN, "global", tokens=""))
    obeyed = []
    following = asyncio.create_task(follow_limits(aredis, OWN, obeyed.append, every_s=0.01))
    await until(lambda: obeyed == [OWN])
    await run(aredis, set_option_call(OWN, "hold", "estimate"))
    await run(aredis, set_limit_call(OWN, "request", tokens=77))
    await until(lambda: obeyed[-1] == replace(OWN, hold=Hold.ESTIMATE, request_tokens=77))
    await aredis.hset("agent:budget:policy", "request", "many")
    await until(lambda: "budget.policy_unreadable" in caplog.text)
    assert obeyed[-1].request_tokens == OWN.request_tokens
    assert "field=request" in caplog.text
    asked = (await aredis.info("commandstats"))["cmdstat_evalsha_ro"]["calls"]

    async def is_asked_again():
        return (await aredis.info("commandstats"))["cmdstat_evalsha_ro"]["calls"] > asked + 3

    await until(is_asked_again)
    assert caplog.text.count("budget.policy_unreadable") == 1
    following.cancel()


async def test_worker_that_may_not_read_the_limits_goes_on(redis_url, aredis, caplog):
    await aredis.acl_setuser("blind", enabled=True, passwords=["+secret"], keys=["agent:task:*"], commands=["+@all"])
    try:
        async with open_async(redis_url.replace("unix://", "unix://blind:secret@")) as redis:
            following = asyncio.create_task(follow_limits(redis, OWN, pytest.fail, every_s=0.01))
            await until(lambda: caplog.text.count("budget.policy_not_read") > 1)
            assert not following.done()
            following.cancel()
    finally:
        await aredis.acl_deluser("blind")


async def test_new_worker_knows_the_rates_that_the_fleet_has_learned(aredis):
    await run(aredis, learn_call("openai/gpt-4o", Pace(500)))
    assert await known_paces(aredis) == {"openai/gpt-4o": Pace(500)}
    async with open_async("unix:///nowhere/redis.sock") as redis:
        assert await known_paces(redis) == {}

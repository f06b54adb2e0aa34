"""`breaker` and `usage`: what the guards of the fleet hold, and that looking changes nothing."""

import json
import re
import subprocess
import sys
from datetime import date, timedelta

import pytest
from click.testing import CliRunner
from redis import Redis

from langgraph_rq.producer.cli.guards import KEPT_DAYS
from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, allow_call, report_call
from langgraph_rq.shared.budget.token_budget import Amount, Charge, Payer, Request, reserve_call, settle_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.settings import BudgetSettings

LIMITS = BreakerLimits()


@pytest.fixture
def raw(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def producer(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(main, arguments)


def report(raw, name, outcome, **pause):
    scripts.run_sync(raw, report_call(name, "t", 0, outcome, LIMITS, **pause))


def spend(raw, user_id=None, model="gpt-4o", tokens=(600, 200), nano_usd=5_000_000, limits=None):
    limits = limits or BudgetSettings().limits()
    payer = Payer(user_id=user_id)
    rid = f"{user_id}:{model}"
    scripts.run_sync(raw, reserve_call(rid, Request(Amount(1_000, nano_usd)), model, payer, limits, ttl_ms=60_000))
    scripts.run_sync(raw, settle_call(rid, Charge(*tokens, nano_usd), model, payer, limits))


def everything(raw):
    return {key: (raw.dump(key), raw.pexpiretime(key)) for key in raw.scan_iter()}


def lines(done):
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_breakers_are_listed_with_state_reason_and_end(raw, producer):
    report(raw, "search", Outcome.FAIL)
    report(raw, "openai/gpt-4o", Outcome.QUOTA)
    report(raw, "openai/gpt-4o-mini", Outcome.RATE_LIMITED, retry_after_ms=60_000)
    done = producer("breaker")
    assert done.exit_code == 0, done.output
    _, openai, mini, search = done.stdout.splitlines()
    assert openai.split()[:3] == ["openai/gpt-4o", "open", "quota"]
    assert re.search(r" in \d+ s ", openai)
    assert mini.split()[:3] == ["openai/gpt-4o-mini", "closed", "rate_limited"]
    assert search.split() == ["search", "closed", "-", "-", "1", "1", "of", "1", "0"]


def test_breakers_as_json_are_one_object_per_line(raw, producer):
    report(raw, "search", Outcome.FAIL)
    report(raw, "openai/gpt-4o", Outcome.QUOTA)
    is_open, closed = lines(producer("breaker", "--json"))
    assert (is_open["name"], is_open["state"], is_open["why"]) == ("openai/gpt-4o", "open", "quota")
    assert is_open["open_ends_at"] > is_open["changed_at"]
    assert closed == {
        "name": "search",
        "state": "closed",
        "why": None,
        "generation": 0,
        "changed_at": None,
        "open_ends_at": None,
        "cooldown_ends_at": None,
        "failures": 1,
        "window_calls": 1,
        "window_failed": 1,
        "probes_in_flight": 0,
    }


def test_open_time_that_is_over_ends_with_the_next_call(raw, producer):
    report(raw, "search", Outcome.QUOTA)
    raw.hset("agent:breaker:search", "open_ends_at", 1)
    assert "the next call" in producer("breaker").stdout
    scripts.run_sync(raw, allow_call("search", "t", LIMITS))
    assert "a probe succeeds" in producer("breaker").stdout


def test_no_breaker_is_no_error(producer):
    done = producer("breaker")
    assert (done.exit_code, done.stdout) == (0, "no breaker was used in the last 24 hours\n")
    assert producer("breaker", "--json").stdout == ""


def test_breaker_is_closed_by_hand(raw, producer):
    report(raw, "openai/gpt-4o", Outcome.QUOTA)
    assert producer("breaker", "--reset", "openai/gpt-4o").stdout == "openai/gpt-4o: open -> closed\n"
    assert scripts.run_sync(raw, allow_call("openai/gpt-4o", "t", LIMITS)).admitted


def test_reset_as_json_says_what_changed(raw, producer):
    report(raw, "search", Outcome.QUOTA)
    (changed,) = lines(producer("breaker", "--reset", "search", "--json"))
    assert changed == {"name": "search", "before": "open", "after": "closed"}


def test_reset_of_an_unknown_breaker_is_refused_with_a_suggestion(raw, producer):
    report(raw, "openai/gpt-4o", Outcome.QUOTA)
    before = everything(raw)
    done = producer("breaker", "--reset", "openai/gpt4o")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "did you mean openai/gpt-4o?" in done.stderr
    assert everything(raw) == before


def test_usage_shows_tokens_money_limits_and_models(raw, producer, monkeypatch):
    monkeypatch.setenv("LGRQ_BUDGET_DAILY_TOKENS", "1000")
    spend(raw, limits=BudgetSettings().limits())
    done = producer("usage")
    assert done.exit_code == 0, done.output
    table = [line.split() for line in done.stdout.splitlines()]
    assert "the whole fleet" in done.stdout.splitlines()[0]
    assert ["tokens", "800", "0", "1,000", "200", "80.0", "50", "%,", "80", "%"] in table
    assert ["US", "dollars", "0.005000", "0.000000", "-", "-", "-", "-"] in table
    assert ["gpt-4o", "1", "600", "200", "0", "0", "0.005000"] in table


def test_usage_as_json(raw, producer, monkeypatch):
    monkeypatch.setenv("LGRQ_BUDGET_DAILY_USD", "0.01")
    spend(raw, limits=BudgetSettings().limits())
    (usage,) = lines(producer("usage", "--json"))
    assert usage["user"] is None
    assert usage["tokens"] == {
        "used": 800,
        "held": 0,
        "limit": 1_000_000,
        "remaining": 999_200,
        "alerts_percent": [],
    }
    assert usage["cost_usd"] == {"used": 0.005, "held": 0.0, "limit": 0.01, "remaining": 0.005, "alerts_percent": [50]}
    assert usage["models"] == [
        {
            "model": "gpt-4o",
            "input_tokens": 600,
            "output_tokens": 200,
            "expired_tokens": 0,
            "calls": 1,
            "estimated_calls": 0,
            "cost_usd": 0.005,
        }
    ]


def test_usage_of_a_user_is_the_users_alone(raw, producer):
    spend(raw, "ann")
    spend(raw, "bob", tokens=(1, 1))
    (usage,) = lines(producer("usage", "--user", "ann", "--json"))
    assert (usage["user"], usage["tokens"]["used"], usage["tokens"]["limit"]) == ("ann", 800, None)


def test_usage_of_a_tenant_is_that_of_its_users(raw, producer):
    for number, payer in enumerate((Payer("acme", "ann"), Payer("acme", "bob"), Payer(user_id="ann"))):
        call = settle_call(f"lost:{number}", Charge(100, 10), "gpt-4o", payer, BudgetSettings().limits())
        scripts.run_sync(raw, call)
    (usage,) = lines(producer("usage", "--tenant", "acme", "--json"))
    assert (usage["tenant"], usage["user"], usage["tokens"]["used"], usage["models"]) == ("acme", None, 220, [])
    (usage,) = lines(producer("usage", "--tenant", "acme", "--user", "ann", "--json"))
    assert (usage["tenant"], usage["user"], usage["tokens"]["used"]) == ("acme", "ann", 110)
    assert "user ann of tenant acme" in producer("usage", "--tenant", "acme", "--user", "ann").stdout


def test_usage_names_a_limit_that_cannot_be_read(raw, producer):
    spend(raw)
    raw.hset("agent:budget:policy", "global", "lots")
    assert "field global of agent:budget:policy cannot be read, so no call starts" in producer("usage").stdout
    (usage,) = lines(producer("usage", "--json"))
    assert (usage["unreadable"], usage["tokens"]["limit"]) == ("global", None)


def test_usage_of_another_day(raw, producer):
    spend(raw)
    (today,) = lines(producer("usage", "--json"))
    yesterday = date.fromisoformat(today["day"]) - timedelta(days=1)
    (usage,) = lines(producer("usage", "--day", yesterday.isoformat(), "--json"))
    assert (usage["day"], usage["tokens"]["used"]) == (yesterday.isoformat(), 0)
    (usage,) = lines(producer("usage", "--day", today["day"], "--json"))
    assert usage == today


@pytest.mark.parametrize("days", [-2, KEPT_DAYS + 2])
def test_day_that_is_not_kept_is_refused(days, producer):
    day = date.today() - timedelta(days=days)  # noqa: DTZ011 - two days are more than any zone's offset
    done = producer("usage", "--day", day.isoformat())
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--day: expected today (" in done.stderr


def test_reading_changes_nothing(raw, producer):
    spend(raw, "ann")
    report(raw, "search", Outcome.FAIL)
    report(raw, "openai/gpt-4o", Outcome.QUOTA)
    before = everything(raw)
    for command in (["breaker"], ["breaker", "--json"], ["usage"], ["usage", "--user", "ann", "--json"]):
        assert producer(*command).exit_code == 0
    assert everything(raw) == before


@pytest.mark.parametrize("command", ["breaker", "usage"])
def test_redis_that_cannot_be_reached_is_one_line_without_its_password(command, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://ann:hunter2@127.0.0.1:1/0")
    done = CliRunner().invoke(main, [command])
    assert done.exit_code == 3
    assert "cannot reach Redis at redis://***@127.0.0.1:1/0" in done.stderr
    assert "hunter2" not in done.output


def test_reset_by_a_redis_user_that_may_not_write_says_whose_job_it_is(raw, redis_url, producer, monkeypatch):
    report(raw, "search", Outcome.QUOTA)
    raw.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["%R~*"], commands=["+@all"])
    try:
        url = redis_url.replace("unix://", "unix://reader:secret@")
        monkeypatch.setenv("REDIS_URL", url)
        assert producer("breaker").exit_code == 0
        done = producer("breaker", "--reset", "search")
    finally:
        raw.acl_deluser("reader")
    assert done.exit_code == 2
    assert "use the admin's REDIS_URL" in done.stderr


@pytest.mark.parametrize("command", ["breaker", "usage"])
def test_help_has_examples_and_exit_codes(command):
    done = CliRunner().invoke(main, [command, "--help"])
    assert "Examples:" in done.stdout
    assert "Exit codes:" in done.stdout


def test_commands_need_no_langchain():
    code = (
        "import sys, langgraph_rq.producer.cli.main;"
        "sys.exit(any(m.startswith(('langchain', 'langgraph.')) for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

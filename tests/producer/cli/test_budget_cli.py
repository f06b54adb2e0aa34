"""`producer budget`: the fleet's limits are shown and changed, and each change is on record."""

import json

import pytest
from click.testing import CliRunner
from redis import Redis

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Charge,
    Payer,
    Refused,
    Request,
    Reservation,
    reserve_call,
    settle_call,
)
from langgraph_rq.shared.connections import scripts

ANN = Payer(user_id="ann")


@pytest.fixture
def raw(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def budget(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(main, ["budget", *arguments])


def done(result):
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def read(result):
    return json.loads(done(result))


def reserve(raw, rid, tokens, payer=ANN):
    call = reserve_call(rid, Request(Amount(tokens)), "gpt-4o", payer, BudgetLimits(), ttl_ms=60_000)
    return scripts.run_sync(raw, call)


def spend(raw, tokens, payer=ANN):
    reserve(raw, "spent", tokens, payer)
    scripts.run_sync(raw, settle_call("spent", Charge(tokens, 0), "gpt-4o", payer, BudgetLimits()))


def test_limits_are_this_machines_settings_until_the_fleet_has_made_a_call(raw, budget, monkeypatch):
    monkeypatch.setenv("LGRQ_BUDGET_DAILY_TOKENS", "5000")
    assert "this machine's settings" in done(budget("show"))
    assert read(budget("show", "--json"))["global"] == {"tokens": 5_000, "usd": None}
    reserve(raw, "t:1:1", 1)
    shown = read(budget("show", "--json"))
    assert (shown["is_set"], shown["global"]["tokens"], shown["request"]["tokens"]) == (True, 1_000_000, 100_000)


def test_limits_are_shown_as_a_table(raw, budget):
    done(budget("set", "global", "2000000", "--usd", "50"))
    done(budget("set", "user", "500", "--user", "ann"))
    table = [line.split() for line in done(budget("show")).splitlines()]
    assert ["the", "whole", "fleet,", "per", "day", "2,000,000", "50"] in table
    assert ["user", "ann", "500", "-"] in table


def test_every_process_obeys_a_limit_that_is_set(raw, budget):
    assert isinstance(reserve(raw, "t:1:1", 100), Reservation)
    assert done(budget("set", "user", "50", "--user", "ann")) == (
        "user ann: the limit of all -> 50 tokens, - US dollars"
    )
    assert isinstance(reserve(raw, "t:1:2", 100), Refused)
    assert isinstance(reserve(raw, "t:1:3", 100, Payer(user_id="bob")), Reservation)
    assert done(budget("show", "--user", "ann")) == "ann: 50 tokens, - US dollars"
    assert done(budget("set", "user", "--user", "ann", "--default")) == (
        "user ann: 50 tokens, - US dollars -> - tokens, - US dollars"
    )
    assert isinstance(reserve(raw, "t:1:2", 100), Reservation)


def test_limit_of_a_tenant(raw, budget):
    changed = read(budget("set", "tenant", "50", "--tenant", "acme", "--json"))
    assert changed == {
        "scope": "tenant",
        "tenant": "acme",
        "user": None,
        "before": None,
        "after": {"tokens": 50, "usd": None},
    }
    assert isinstance(reserve(raw, "t:1:1", 100, Payer("acme", "ann")), Refused)
    assert isinstance(reserve(raw, "t:1:2", 100), Reservation)
    assert read(budget("show", "--tenant", "acme", "--json"))["tokens"] == 50


def test_limit_is_raised_and_taken_away(budget):
    assert done(budget("raise", "global", "500000", "--usd", "1")) == (
        "global: 1,000,000 tokens, - US dollars -> 1,500,000 tokens, - US dollars"
    )
    assert done(budget("set", "global", "none", "--usd", "0.5")) == (
        "global: 1,500,000 tokens, - US dollars -> - tokens, 0.5 US dollars"
    )


def test_spent_budget_is_free_again_after_a_reset(raw, budget):
    done(budget("set", "user", "100", "--user", "ann"))
    spend(raw, 100)
    assert isinstance(reserve(raw, "t:1:1", 50), Refused)
    assert done(budget("reset", "user", "--user", "ann")) == "user ann: forgot 100 tokens and $0.000000 of today"
    assert isinstance(reserve(raw, "t:1:1", 50), Reservation)
    assert read(budget("reset", "global", "--json"))["forgotten_tokens"] == 100


def test_hold_of_the_fleet_is_set(raw, budget):
    assert done(budget("set", "hold", "worst")) == "hold: estimate -> worst"
    assert read(budget("show", "--json"))["hold"] == "worst"
    assert done(budget("set", "utc_offset_s", "3600")) == "utc_offset_s: 0 -> 3600"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "global"), "VALUE: expected tokens, --usd, or both"),
        (("set", "global", "many"), "error: VALUE: expected 1 to 9,007,199,254,740,991 tokens, or none, got: many"),
        (("set", "global", "0"), "tokens, or none, got: 0"),
        (("set", "global", str(2**53)), "tokens, or none, got: 9007199254740992"),
        (("set", "global", "9" * 5_000), f"tokens, or none, got: {'9' * 60}\n"),
        (("set", "global", "--usd", "ten"), "--usd: expected 0.000000001 to 9,007,199 US dollars, or none, got"),
        (("set", "global", "--usd", "nan"), "US dollars, or none, got: nan"),
        (("set", "global", "--usd", "1e20"), "US dollars, or none, got: 1e20"),
        (("set", "request", "--usd", "1"), "--usd: expected a scope other than request"),
        (("set", "global", "5", "--user", "ann"), "expected --user of user, --tenant of tenant"),
        (("set", "user", "5", "--tenant", "acme"), "expected --user of user, --tenant of tenant"),
        (("set", "user", "--default"), "--default: expected a tenant or user"),
        (("set", "hold", "little"), "hold: expected estimate or worst, got: little"),
        (("set", "utc_offset_s", "1e9"), "utc_offset_s: expected seconds"),
        (("raise", "global", "none"), "VALUE: expected 1 to 9,007,199,254,740,991 tokens, got: none"),
        (("reset", "user"), "expected --user to name one"),
    ],
)
def test_wrong_input_is_refused_and_changes_nothing(arguments, said, raw, budget):
    result = budget(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert raw.keys("*") == []


def test_each_change_is_in_the_audit_log(raw, budget, monkeypatch):
    monkeypatch.setenv("LGRQ_AUDIT_KEY", "a key of the tests, as long as it must be")
    done(budget("show"))
    done(budget("set", "user", "50", "--user", "ann"))
    done(budget("raise", "global", "500"))
    done(budget("set", "hold", "worst"))
    done(budget("reset", "global"))
    log = [json.loads(line) for line in done(CliRunner().invoke(main, ["audit", "--json"])).splitlines()]
    entries = [(entry["action"], entry["details"]) for entry in log]
    assert [action for action, _ in entries] == ["limit_changed"] * 3 + ["usage_reset"]
    assert {"scope": "user", "user": "ann", "tokens": "50"}.items() <= entries[0][1].items()
    assert {"scope": "global", "tokens": "+500"}.items() <= entries[1][1].items()


def test_limit_that_would_be_too_large_is_refused_with_the_amounts(raw, budget):
    done(budget("set", "global", str(2**53 - 1)))
    refused = budget("raise", "global", "1")
    assert refused.exit_code == 2
    assert "expected a limit of at most 2**53 - 1, got: 9007199254740991 + 1" in refused.stderr


def test_limit_that_cannot_be_read_is_shown_and_can_be_set(raw, budget):
    reserve(raw, "1", 10)
    raw.hset("agent:budget:policy", "user", "50,000 -")
    raw.hset("agent:budget:policy", "user:bob", "x")
    raw.hset("agent:budget:policy", "hold", "wrst")
    shown = done(budget("show"))
    assert "user cannot be read, got: '50,000 -'; set it again, until then no call that it limits starts" in shown
    assert "hold cannot be read, got: 'wrst'; set it again" in shown
    assert read(budget("show", "--json"))["unreadable"] == {"user": "50,000 -", "user:bob": "x", "hold": "wrst"}
    assert "field user cannot be read, so no call starts" in done(budget("show", "--user", "ann"))
    assert read(budget("show", "--user", "ann", "--json"))["unreadable"] == "user"
    done(budget("set", "user", "50000"))
    done(budget("set", "user", "1", "--user", "bob"))
    done(budget("set", "hold", "estimate"))
    assert read(budget("show", "--json"))["unreadable"] == {}

"""A policy with one rule taken out is noticed by a scenario that passes with all of them."""

import pytest

from langgraph_rq.shared.budget.policy import NotALimitError, read_policy_call, set_limit_call
from langgraph_rq.shared.budget.token_budget import (
    Amount,
    BudgetLimits,
    Busy,
    Charge,
    Payer,
    Request,
    Unreadable,
    expire_call,
    reserve_call,
    settle_call,
    usage_call,
)
from langgraph_rq.shared.connections.scripts import load_script, make_script, run_sync

POLICY = "agent:budget:policy"
NOW_MS = 1_800_055_800_000
"""Half past eleven in the evening, UTC."""
LIMITS = BudgetLimits(daily_tokens=1000, user_daily_tokens=100, utc_offset_s=3600)
ANN = Payer(user_id="ann")
MUTANTS = {
    "a limit that cannot be read is none": (
        "reserve",
        "return { tokens = most_tokens, cost = most_cost }, unreadable",
        "return { tokens = most_tokens, cost = most_cost }",
    ),
    "the own limit is to blame for the one for all": ("reserve", "has_tokens and own_name or name", "own_name or name"),
    "an offset that cannot be read is none": (
        "reserve",
        "(offset_of(offset_s) or cjson.decode(seed).utc_offset_s)",
        "(offset_of(offset_s) or 0)",
    ),
    "an offset may be longer than a day": ("reserve", "offset <= 50400", "true"),
    "a missing field is not written": (
        "reserve",
        'redis.call("HSETNX", ("agent:budget:policy"), name, values[i + 2])',
        "",
    ),
    "a number may be too large": ("reserve", "number < (9007199254740992) then", "true then"),
    "a hold that cannot be read is an estimate": ("expire", 'limits.hold ~= "estimate"', 'limits.hold == "worst"'),
    "a raise has no end": ("set_limit", "number + added >= (9007199254740992)", "false"),
    "a user's other amount stays as it was": ("set_limit", '(before or "= =")', "(before or all)"),
    "what cannot be read is raised": ("set_limit", 'return nil, { "unreadable", holds }', "return seeded"),
    "what cannot be read stays": ("set_limit", 'old == "=") and old or seeded', 'old == "=") and old or old'),
    "a call keeps room though it does not wait": ("reserve", "if may_wait and not", "if not"),
    "a place in wait is never given up": ("settle", 'redis.call("HDEL", scope.key, "waiter")', ""),
    "a place in wait is given up by another": ("settle", '"^%d+ %d+ %d+ (.+)$") == rid', '"^%d+ %d+ %d+ (.+)$")'),
}
"""Each is a script, one piece of it, and its replacement."""


def is_as_promised(redis, mutant) -> bool:
    """Run the scenario with `mutant` in place of the script of its name."""

    def do(call):
        return run_sync(redis, call._replace(script=mutant) if call.script.name == mutant.name else call)

    def reserve(rid, tokens=1, output=0, **options):
        request = Request(Amount(tokens), Amount(output))
        return do(reserve_call(rid, request, "m", ANN, LIMITS, ttl_ms=1000, now_ms=NOW_MS, **options))

    def blames(field, value):
        redis.hset(POLICY, field, value)
        answer = reserve(f"{field}{value}")
        redis.hdel(POLICY, field)
        return isinstance(answer, Unreadable) and answer.field == field

    def refuses(call):
        try:
            do(call)
        except NotALimitError:
            return True
        return False

    redis.flushdb()
    reserve("a")
    promised = [redis.hget(POLICY, "user") == "100 -"]
    for offset in ("2h", "90000"):
        redis.hset(POLICY, "utc_offset_s", offset)
        reserve(f"offset {offset}")
        begins = do(usage_call(LIMITS, now_ms=NOW_MS)).day
        record = redis.get(f"agent:budget:reservation:offset {offset}").split()
        promised.append(int(record[1]) == (NOW_MS + 3_600_000) // 86_400_000 and begins.year == 2027)
    redis.hdel(POLICY, "utc_offset_s")
    promised += [blames("user", "many -"), blames("user:ann", "1 many"), blames("user", f"{2**53} -")]
    redis.hset(POLICY, "user:ann", "= 7")
    promised.append(blames("user", "many -"))
    redis.hdel(POLICY, "user:ann")
    reserve("b")
    promised.append(redis.hget(POLICY, "utc_offset_s") == "3600")

    redis.hset(POLICY, "hold", "wrst")
    reserve("worst", 1, 9)
    do(expire_call(100, LIMITS, NOW_MS + 5000))
    promised.append(redis.get("agent:budget:reservation:worst").split()[2] == "10")

    promised.append(refuses(set_limit_call(LIMITS, "global", tokens=2**53 - 1, is_raise=True)))
    promised.append(redis.hget(POLICY, "global") == "1000 -")
    redis.hset(POLICY, "global", "lots")
    promised.append(refuses(set_limit_call(LIMITS, "global", tokens=1, is_raise=True)))
    do(set_limit_call(LIMITS, "global", tokens=500))
    do(set_limit_call(LIMITS, "user", ANN, cost_nano_usd=5))
    do(set_limit_call(LIMITS, "user", tokens=300))
    policy = do(read_policy_call())
    promised.append((policy.own["user:ann"].tokens, policy.unreadable) == (300, {"hold": "wrst"}))

    redis.flushdb()
    reserve("running", 100)
    promised.append(isinstance(reserve("hasty", 1, may_wait=False), Busy) and not first_in_wait(redis))
    reserve("patient")
    do(settle_call("another", Charge(0, 0), "m", ANN, LIMITS, now_ms=NOW_MS))
    promised.append(first_in_wait(redis) == "patient")
    do(settle_call("patient", Charge(0, 0), "m", ANN, LIMITS, now_ms=NOW_MS))
    promised.append(not first_in_wait(redis))
    return all(promised)


def first_in_wait(redis):
    (key,) = redis.keys("agent:budget:*:user:ann")
    return (redis.hget(key, "waiter") or "").rpartition(" ")[2]


def test_policy_is_as_promised(redis_client):
    assert is_as_promised(redis_client, load_script("shared/budget/scripts/reserve"))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_policy_with_one_rule_taken_out_is_caught(redis_client, mutant):
    verb, original, replacement = MUTANTS[mutant]
    script = load_script(f"shared/budget/scripts/{verb}")
    assert script.source.count(original) == 1
    assert not is_as_promised(redis_client, make_script(script.name, script.source.replace(original, replacement)))

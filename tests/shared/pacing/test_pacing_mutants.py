"""The script answers as the plain-Python model does, and with one rule taken out it does not."""

from random import Random

import pytest

from langgraph_rq.shared.connections.scripts import load_script, make_script, run_sync
from langgraph_rq.shared.pacing.pacing import Pace, correct_call, pace_call
from tests.models.pacing import PaceModel

NOW_MS = 1_800_000_000_000
PACES = [Pace(calls_per_minute=600), Pace(tokens_per_minute=60_000), Pace(60, 600_000)]
MUTANTS = {
    "only one rate is booked": ("pace", "booked[#booked + 1], booked[#booked + 2] =", "booked[1], booked[2] ="),
    "tokens do not count": ("pace", "or tokens) * 60000", "or 0) * 60000"),
    "the burst has no end": ("pace", "at - burst_ms", "at - 60000"),
    "an idle time is saved up": ("pace", "or 0, now_ms)", "or 0, 0)"),
    "a booking ignores the one before": ("pace", "at + takes_ms)\n    ends", "now_ms + takes_ms)\n    ends"),
    "all that wait come back at once": ("pace", "asks_at + part_ms", "0"),
    "a wait has no end": ("pace", "now_ms + longest_ms", "now_ms + 100 * longest_ms"),
    "a correction changes no calls": ("correct", "calls_at = {tonumber(ARGV[1])", "calls_at = {0"),
    "a correction changes no tokens": ("correct", "tokens_at = {tonumber(ARGV[2])", "tokens_at = {0"),
    "what is added counts from before an idle time": (
        "correct",
        "math.max(at, now_ms) + number",
        "at + number",
    ),
}
"""Each is a script, one piece of it, and its replacement."""


def is_as_the_model(redis, script):
    """Compare storms of small and of large calls, with corrections and pauses between them."""

    def run(call):
        return run_sync(redis, call._replace(script=script) if call.script.name == script.name else call)

    random = Random(20261128)
    for pace in PACES:
        redis.delete("agent:pace:x")
        model, now_ms = PaceModel(pace), NOW_MS
        for _ in range(300):
            now_ms += random.choice([0, 0, 0, 0, 50, 900, 90_000])
            for _ in range(random.choice([1, 1, 1, 200])):
                tokens = random.choice([1, 500, 20_000])
                if random.random() < 0.3:
                    more = random.choice([(0, -tokens), (-1, -tokens), (0, tokens), (1, 50_000)])
                    run(correct_call("x", pace, *more, now_ms=now_ms))
                    model.correct(now_ms, *more)
                call = pace_call("x", pace, tokens, now_ms=now_ms)
                if abs(run(call) - model.ask(now_ms, tokens)) > 1:  # a rounded millisecond
                    return False
    return True


def test_script_answers_as_the_model(redis_client):
    assert is_as_the_model(redis_client, load_script("shared/pacing/pace"))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_pacing_with_one_rule_taken_out_is_caught(redis_client, mutant):
    name, original, replacement = MUTANTS[mutant]
    script = load_script(f"shared/pacing/{name}")
    assert script.source.count(original) == 1
    assert not is_as_the_model(redis_client, make_script(script.name, script.source.replace(original, replacement)))

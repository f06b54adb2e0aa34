"""Rates that providers report in the headers of their answers, kept for the whole fleet.

Key:
    agent:pacing  hash  name of a model, as its breaker's -> "calls tokens" per minute, 0 for any number; at most 500
                        names, a day after the last change
"""

from collections.abc import Mapping, Sequence

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.pacing.pacing import Pace

RATES = "agent:pacing"
MOST_MODELS = 500
_KEPT_MS = 86_400_000
_HEADERS = (
    ("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"),
    ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-tokens-limit"),
)
"""Calls and tokens per minute, as OpenAI and those that follow it name them, and Anthropic."""
_MOST = 2**53


def read_headers(headers: Mapping[str, str]) -> Pace | None:
    """Read the rates in an answer's headers, whose names are in lower case or match in any; None: there are none."""
    for names in _HEADERS:
        calls, tokens = (_rate(headers.get(name)) for name in names)
        if calls or tokens:
            return Pace(calls, tokens)
    return None


def _rate(value: str | None) -> int | None:
    if not value or len(value) > len(str(_MOST)) or not (value.isascii() and value.isdigit()):
        return None
    return int(value) or None


def learn_call(name: str, pace: Pace) -> Call[bool]:
    """Keep a model's rates; the reply is whether there was room for them."""
    rates = (pace.calls_per_minute or 0, pace.tokens_per_minute or 0)
    return Call(load_script("shared/pacing/learn"), (RATES,), (name, *rates, MOST_MODELS, _KEPT_MS), bool)


def learned_call() -> Call[dict[str, Pace]]:
    """Read all rates that were kept."""
    return Call(load_script("shared/pacing/learned"), (RATES,), (), _learned)


def _learned(reply: Sequence[bytes | str]) -> dict[str, Pace]:
    fields = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in reply]
    found = {}
    for name, rates in zip(fields[::2], fields[1::2], strict=True):
        calls, _, tokens = rates.partition(" ")
        pace = Pace(_rate(calls), _rate(tokens))
        if pace != Pace():
            found[name] = pace
    return found


def combined(given: Pace | None, learned: Pace | None) -> Pace | None:
    """Return the rates to obey: what a setting gives goes before what the provider reported."""
    if given is None or learned is None:
        return given or learned
    return Pace(
        given.calls_per_minute or learned.calls_per_minute, given.tokens_per_minute or learned.tokens_per_minute
    )

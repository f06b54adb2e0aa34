"""Pacing: spread the calls to a model over the minute that its provider limits.

Without it a limited provider is stormed: calls go out until a 429, all wait as long as it asks, and go out again. With
it each call is booked at the rates of its model, in calls and in tokens, for the whole fleet, and one that comes too
early is told when to ask again. A second's worth may go out at once. A booking is an estimate; it is corrected when the
call has ended, and given back when it is not made.

Key, forgotten a minute after its last booking has passed; all times are the server's:
    agent:pace:<name>  hash  calls_at, tokens_at (until when each rate is used up), asked_at (when the last caller that
                             waits asks again): ms since the epoch

Source: the Generic Cell Rate Algorithm of ITU-T I.371, as a virtual schedule.
"""

from dataclasses import dataclass

from langgraph_rq.shared.connections.scripts import Call, load_script

BURST_MS = 1_000
"""Providers that limit a minute often count seconds too."""
LONGEST_WAIT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Pace:
    """The rates of one model; None: any number.

    Raises:
        ValueError: A rate is not a positive whole number.
    """

    calls_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("calls_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"expected {name} to be a whole number of 1 or more, got: {value!r}")


def pace_call(name: str, pace: Pace, tokens: int, *, now_ms: int | None = None) -> Call[int]:
    """Ask whether a call may start; the reply is the wait in ms, 0 if it was booked.

    Args:
        name: The model, as its breaker is named.
        pace: Its rates; callers of one model should agree on them.
        tokens: What the call is likely to use.
        now_ms: A test's clock; None for the server's.
    """
    rates = (pace.calls_per_minute or 0, pace.tokens_per_minute or 0)
    clock = "" if now_ms is None else now_ms
    args = (*rates, tokens, BURST_MS, LONGEST_WAIT_MS, clock)
    return Call(load_script("shared/pacing/pace"), (f"agent:pace:{name}",), args, int)


def correct_call(name: str, pace: Pace, calls: int, tokens: int, *, now_ms: int | None = None) -> Call[bool]:
    """Add to what was booked, or give back what is negative; the reply is whether anything was corrected.

    Not idempotent: it belongs into a script that decides whether it was run before.
    """
    rates = (pace.calls_per_minute or 0, pace.tokens_per_minute or 0)
    args = (*rates, calls, tokens, "" if now_ms is None else now_ms)
    return Call(load_script("shared/pacing/correct"), (f"agent:pace:{name}",), args, bool)

"""Pacing in plain Python, without Redis: what the script must answer, in the server's order."""

from dataclasses import dataclass
from math import ceil

from langgraph_rq.shared.pacing.pacing import BURST_MS, LONGEST_WAIT_MS, Pace


@dataclass
class PaceModel:
    pace: Pace
    calls_at: float = 0
    tokens_at: float = 0
    asked_at: float = 0

    def ask(self, now: int, tokens: int) -> int:
        """Return the wait (ms), 0 if the call is booked."""
        calls_ms = 60_000 / self.pace.calls_per_minute if self.pace.calls_per_minute else 0
        tokens_ms = tokens * 60_000 / self.pace.tokens_per_minute if self.pace.tokens_per_minute else 0
        calls_at, tokens_at = max(self.calls_at, now), max(self.tokens_at, now)
        free_at = max(calls_at, tokens_at) - BURST_MS
        if free_at <= now:
            self.calls_at, self.tokens_at = calls_at + calls_ms, tokens_at + tokens_ms
            return 0
        asks_at = min(max(self.asked_at, free_at), now + LONGEST_WAIT_MS)
        self.asked_at = asks_at + max(calls_ms, tokens_ms)
        return max(1, ceil(asks_at - now))

    def correct(self, now: int, calls: int, tokens: int) -> None:
        """Add to what is booked, or give back what is negative."""
        if self.pace.calls_per_minute and calls and self.calls_at:
            self.calls_at = max(self.calls_at, now) + calls * 60_000 / self.pace.calls_per_minute
        if self.pace.tokens_per_minute and tokens and self.tokens_at:
            self.tokens_at = max(self.tokens_at, now) + tokens * 60_000 / self.pace.tokens_per_minute

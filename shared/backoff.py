"""Exponential back-off with a cap and jitter: the pauses between the attempts of every loop that retries.

Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Backoff:
    """Compute how long to wait after the n-th failure in a row.

    The pause is `min(longest_s, first_s * 2 ** (n - 1))`, times a random factor between `1 - jitter` and `1 + jitter`
    that keeps many clients from returning to a recovered server at the same moment.

    Args:
        first_s: Pause after the first failure, in seconds; above 0.
        longest_s: Cap of the pause, before jitter; at least `first_s`.
        jitter: From 0 (none) to below 1.
    """

    first_s: float
    longest_s: float
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s:
            raise ValueError(f"expected 0 < first_s <= longest_s, got: {self.first_s} and {self.longest_s}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"expected jitter to be at least 0 and below 1, got: {self.jitter}")

    def pause_s(self, failures: int) -> float:
        """Return the pause after `failures` failures in a row, the one just seen included (so at least 1)."""
        doublings = min(max(failures - 1, 0), _MOST_DOUBLINGS)
        pause_s = min(self.longest_s, self.first_s * 2.0**doublings)
        return pause_s * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311 - spreads load, guards nothing

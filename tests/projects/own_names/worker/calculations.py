"""Sums of prices."""

from collections.abc import Iterable


def total(prices: Iterable[int]) -> int:
    """Add up prices, in cents."""
    return sum(prices)

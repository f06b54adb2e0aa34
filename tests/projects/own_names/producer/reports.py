"""Reports in plain text."""

from collections.abc import Sequence

from shared.prices import price_of


def write(items: Sequence[str], total_cents: int) -> str:
    """List each item with its price, and the total."""
    lines = [f"{item} {price_of(item)}" for item in items]
    return "; ".join([*lines, f"total {total_cents}"])

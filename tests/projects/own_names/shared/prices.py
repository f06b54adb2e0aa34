"""What things cost, in cents."""

PRICES = {"tea": 250, "cake": 420}


def price_of(item: str) -> int:
    """Return the price of one item, in cents."""
    return PRICES[item]

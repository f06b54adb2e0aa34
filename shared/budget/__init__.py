"""The fleet's budget of tokens and money: limits, reservations, usage, prices. Begin with token_budget.py."""

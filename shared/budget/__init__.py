"""The fleet's budget of tokens and money: limits, reservations, usage and prices. Begin with token_budget.py."""

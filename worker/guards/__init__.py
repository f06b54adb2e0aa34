"""What may call a model, and what it cost: breaker, budget, retries, fallbacks. Begin with model_call.py."""

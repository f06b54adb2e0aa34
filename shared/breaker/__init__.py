"""One circuit breaker per model for the whole fleet. Begin with circuit_breaker.py."""

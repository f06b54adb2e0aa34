"""Health, readiness and metrics of the gateway. Begin with health.py."""

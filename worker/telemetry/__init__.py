"""What a worker process exposes: metrics, health, alerts. Begin with exporters.py."""

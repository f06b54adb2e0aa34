"""What a worker process exposes: metrics, health, spans, alerts. Begin with exporters.py."""

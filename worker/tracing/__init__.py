"""The spans of a worker: an attempt's, and how the user's code sees them. Begin with attempt_spans.py."""

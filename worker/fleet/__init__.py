"""A worker process among others: claim, lease, drain, isolate. Begin with graph_worker.py."""

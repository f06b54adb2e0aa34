"""State that outlives a worker: checkpoints (read first), the long-term store, and the search indexes of both.

A project's own checkpointer and store are opened by project_state; node_cache shares the results of cached nodes.
"""

"""State that outlives a worker: checkpoints (read first), the long-term store, and the search indexes of both."""

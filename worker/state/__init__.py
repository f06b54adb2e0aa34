"""What outlives a task: checkpoints and the store. Begin with checkpoints.py."""

"""Checkpoints of threads on plain Redis: the saver, its format of records, and what may be dropped."""

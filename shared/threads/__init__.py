"""Requests about threads, which workers answer: no other process has the graphs that read a thread's state."""

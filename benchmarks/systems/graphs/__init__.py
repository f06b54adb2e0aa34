"""The graphs that every system runs."""

"""How threads are written in keys."""

from urllib.parse import quote

INDEX = "agent:checkpoints:"


def part_of(thread: str) -> str:
    """Return the part of keys that names a thread."""
    return quote(thread, safe="@+")


def index_key(thread: str) -> str:
    """Return the key of a thread's checkpoints."""
    return INDEX + part_of(thread)

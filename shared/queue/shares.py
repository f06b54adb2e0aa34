"""What a tenant may hold in Redis: open tasks, and bytes of its tasks and results."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """The limits of one tenant; `submit` refuses a task above them, whichever producer sends it."""

    tasks: int = 0
    """Open tasks at most; 0 for any number."""
    held_bytes: int = 0
    """Bytes of its tasks and results at most; 0 for any number."""
    memory_percent: int = 99
    """Above this share of Redis' maxmemory a tenant that holds more than an equal part is refused."""


NO_LIMITS = Share()

"""Outages of Redis as one worker sees them: one line when they begin, and one when they are over.

Its loops retry several times a second, each on a connection of its own. Their events are at level debug meanwhile:
metrics count them all the same.
"""

import threading
import time

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.telemetry.logs import get_logger

_log = get_logger(__name__)


class Outage:
    """The operations that Redis did not answer when they were tried last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._since = 0.0

    def covers(self, operation: str, error: Exception) -> bool:
        """Note that an operation failed; return whether by an outage, which is logged here."""
        if not is_outage(error) and not isinstance(error, OSError):
            return False
        with self._lock:
            is_first = not self._failing
            self._failing.add(operation)
        if is_first:
            self._since = time.monotonic()
            _log.warning("redis.lost", error=str(error))
        return True

    def passed(self, operation: str) -> None:
        """Note that an operation was answered. The outage is over when all that failed were answered again."""
        if operation not in self._failing:
            return
        with self._lock:
            self._failing.discard(operation)
            is_over = not self._failing
        if is_over:
            _log.warning("redis.recovered", away_s=round(time.monotonic() - self._since, 1))

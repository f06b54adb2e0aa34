"""Log events of the client, without what writes them until one is written: structlog imports rich, in 50 ms."""

import logging
from typing import Any


class ClientLog:
    """The logger of one module; an event below the program's log level costs no import."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stdlib = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal event."""
        if self._stdlib.isEnabledFor(logging.INFO):
            self._load().info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that operators should know about."""
        if self._stdlib.isEnabledFor(logging.WARNING):
            self._load().warning(event, **fields)

    def _load(self) -> Any:
        from langgraph_rq.shared.telemetry.logs import get_logger  # noqa: PLC0415 - see above

        return get_logger(self._name)

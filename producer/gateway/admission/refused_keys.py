"""API keys that are not valid: logged, counted and answered slowly.

A key cannot be guessed (256 random bits), so the delay protects no key: it keeps programs with wrong ones from costing
the process much, and its log more than `_WAITING` lines in `_DELAY_S`.
"""

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.metrics import REFUSED_KEYS, build

_DELAY_S = 0.5
_WAITING = 64
"""Refusals that wait at once; what comes beyond is answered at once, with 429."""

_log = get_logger(__name__)


class RefusedKeys:
    """The refusals of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._count = build(REFUSED_KEYS, self._registry)
        self._waiting = 0

    async def refuse(self, address: str, path: str) -> ProblemError:
        """Count one and wait; answers what to say."""
        self._count.inc()
        if self._waiting >= _WAITING:
            return ProblemError(
                429,
                "too_many_wrong_keys",
                "too many requests with wrong API keys: send a valid one, or try again later",
                headers={"Retry-After": "1", "Connection": "close"},
            )
        _log.warning("key.refused", address=address, path=path)
        self._waiting += 1
        try:
            await asyncio.sleep(_DELAY_S)
        finally:
            self._waiting -= 1
        return unauthorized()

    def page(self) -> bytes:
        """Write the metric for Prometheus."""
        return generate_latest(self._registry)


def unauthorized() -> ProblemError:
    """Ask for a key."""
    return ProblemError(
        401,
        "unauthorized",
        "expected a valid API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        headers={"WWW-Authenticate": "Bearer"},
    )

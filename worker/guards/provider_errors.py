"""What an exception of a model or of another service means: for the breaker, for retrying, and for the bill.

Works for the OpenAI SDK and those made like it (Anthropic, Mistral, ...): their errors carry the HTTP status, a code
and the response. What carries no status never got an answer.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.breaker.circuit_breaker import QUOTA_CODES, Outcome, outcome_of

DEFAULT_PAUSE_S = 1.0
"""For a 429 that does not say how long."""

_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
"""httpx' names, whichever copy of it an SDK brings: the request never left."""
_BROKEN = (
    "APIConnectionError",
    "APITimeoutError",
    "ClientConnectionError",
    "ConnectionError",
    "HTTPError",
    "RemoteProtocolError",
    "RequestError",
    "TimeoutException",
    "TransportError",
    "URLError",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception, read.

    Args:
        outcome: The breaker's view of it.
        retry_after_s: The pause that the provider asked for.
        may_be_billed: Whether the provider may have worked, and charged, for nothing that we saw.
        is_provider: Whether a provider failed at all; otherwise it is an error of the graph's own code.
    """

    outcome: Outcome
    retry_after_s: float = 0.0
    may_be_billed: bool = False
    is_provider: bool = True

    @property
    def is_unavailable(self) -> bool:
        """Whether the provider cannot be used now, so that a retry or another model may help."""
        return self.is_provider and self.outcome in {Outcome.FAIL, Outcome.RATE_LIMITED, Outcome.QUOTA}


def read_failure(error: BaseException) -> Failure:
    """Class an exception that came out of a call."""
    if isinstance(error, asyncio.CancelledError):
        return Failure(Outcome.CANCEL, may_be_billed=True, is_provider=False)
    response = getattr(error, "response", None)
    status = status_of(error)
    if status >= 400:  # a 2xx here had a body that could not be read
        outcome = outcome_of(status, _code(error))
        pause = _retry_after_s(response) if outcome is Outcome.RATE_LIMITED else 0.0
        return Failure(outcome, pause, may_be_billed=status == 504)
    if isinstance(error, TimeoutError | json.JSONDecodeError | UnicodeDecodeError) or _is_broken(error):
        never_left = any(type(cause).__name__ in _NOT_CONNECTED for cause in _causes(error))
        return Failure(Outcome.FAIL, may_be_billed=not never_left)
    if _code(error) in QUOTA_CODES:
        return Failure(Outcome.QUOTA)
    if _code(error) is not None or any(kind.__name__ == "APIError" for kind in type(error).__mro__):
        return Failure(Outcome.FAIL, may_be_billed=True)  # an error in the middle of a stream has no status
    return Failure(Outcome.IGNORE, may_be_billed=True, is_provider=False)


def status_of(error: BaseException) -> int:
    """Find the HTTP status where OpenAI's SDK, httpx, requests, aiohttp or urllib keep it; 0 if there is none."""
    response = getattr(error, "response", None)
    found = (getattr(place, name, None) for place in (error, response) for name in ("status_code", "status", "code"))
    return next((status for status in found if isinstance(status, int)), 0)


def _is_broken(error: BaseException) -> bool:
    return any(kind.__name__ in _BROKEN for cause in _causes(error) for kind in type(cause).__mro__)


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    return causes


def _code(error: BaseException) -> str | None:
    code: Any = getattr(error, "code", None)
    return code if isinstance(code, str) else None


def _retry_after_s(response: Any) -> float:
    headers = getattr(response, "headers", None) or {}
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    return DEFAULT_PAUSE_S

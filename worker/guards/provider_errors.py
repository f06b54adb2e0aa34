"""Classification of exceptions from models and other services: breaker outcome, retry, possible charge.

Covers the OpenAI SDK and SDKs of the same design (Anthropic, Mistral, ...), whose errors carry the HTTP status, a code
and the response. An error without a status had no response.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.breaker.circuit_breaker import QUOTA_CODES, Outcome, outcome_of

DEFAULT_PAUSE_S = 1.0
"""For a 429 without Retry-After."""

_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
"""Class names of httpx, also when an SDK bundles its own copy: the request was never sent."""
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
    """A classified exception.

    Args:
        outcome: What to report to the breaker.
        retry_after_s: The pause that the provider asked for.
        may_be_billed: Whether the provider may charge for the call although no response arrived.
        is_provider: Whether the provider failed; False: an error of the graph's own code.
    """

    outcome: Outcome
    retry_after_s: float = 0.0
    may_be_billed: bool = False
    is_provider: bool = True

    @property
    def is_unavailable(self) -> bool:
        """Whether a retry or another model may help."""
        return self.is_provider and self.outcome in {Outcome.FAIL, Outcome.RATE_LIMITED, Outcome.QUOTA}


def read_failure(error: BaseException) -> Failure:
    """Classify an exception that a call raised."""
    if isinstance(error, asyncio.CancelledError):
        return Failure(Outcome.CANCEL, may_be_billed=True, is_provider=False)
    response = getattr(error, "response", None)
    status = status_of(error)
    if status >= 400:  # below 400 the response was good, but its body was not
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
    """Return the HTTP status of an error of OpenAI's SDK, httpx, requests, aiohttp or urllib; 0: it has none."""
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

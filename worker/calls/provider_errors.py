"""Classification of exceptions from models and other services: breaker outcome, retry, possible charge.

Covers the OpenAI SDK and SDKs of the same design (Anthropic, Mistral, ...), whose errors carry the HTTP status, a code
and the response. An error without a status had no response.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import walk_tb
from types import FrameType
from typing import Any

from langgraph_rq.shared.breaker.circuit_breaker import QUOTA_CODES, Outcome, outcome_of
from langgraph_rq.shared.queue.waits import BREAKER, Wait

DEFAULT_PAUSE_S = 1.0
"""For a 429 without Retry-After."""

_NOT_CONNECTED = ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")
"""Class names of httpx, also when an SDK bundles its own copy: the provider could not be reached."""
_POOL_TIMEOUT = "PoolTimeout"
"""httpx's, for a request that found no free connection in its own pool."""
_POOL_WAIT = "wait_for_connection"
"""The function in which httpcore waits for a free connection: cancelled there, a call was never sent."""
_TOKENIZERS = {"tiktoken", "transformers"}
"""Packages that may download the tables of a tokenizer in the middle of a call."""
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
    def was_called(self) -> bool:
        """Whether the provider was called and did not only ask for a pause: nothing was paid otherwise."""
        return self.outcome not in {Outcome.CANCEL, Outcome.RATE_LIMITED}

    @property
    def is_unavailable(self) -> bool:
        """Whether a retry or another model may help."""
        unavailable = {Outcome.FAIL, Outcome.RATE_LIMITED, Outcome.QUOTA, Outcome.CANCEL}
        return self.is_provider and self.outcome in unavailable

    def wait_for(self, breaker: str) -> Wait | None:
        """Return what a task can wait for that only has to pause: the end of its breaker's cooldown."""
        is_pause = self.outcome is Outcome.RATE_LIMITED and self.retry_after_s > 0 and breaker
        return Wait(BREAKER + breaker) if is_pause else None


def read_failure(error: BaseException) -> Failure:
    """Classify an exception that a call raised."""
    if isinstance(error, asyncio.CancelledError):
        return Failure(Outcome.CANCEL, may_be_billed=not _was_queued(error), is_provider=False)
    if _is_of_a_tokenizer(error):
        return Failure(Outcome.CANCEL, is_provider=False)
    if _was_queued(error):
        return Failure(Outcome.CANCEL)
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


def _was_queued(error: BaseException) -> bool:
    """Whether the call waited for a connection of its own client, so that its request was never sent."""
    return any(type(cause).__name__ == _POOL_TIMEOUT for cause in _causes(error)) or any(
        frame.f_code.co_name == _POOL_WAIT for frame in _frames(error)
    )


def _is_of_a_tokenizer(error: BaseException) -> bool:
    return any(str(frame.f_globals.get("__name__")).partition(".")[0] in _TOKENIZERS for frame in _frames(error))


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames that the error and its causes passed through."""
    return (frame for cause in _causes(error) for frame, _ in walk_tb(cause.__traceback__))


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

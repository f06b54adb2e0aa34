"""Faults of the offline model server: error replies, broken connections, hanging calls.

A rule names a fault, the calls that it applies to, and how often. The first rule that applies to a call decides. A
request can carry its own rule in the header `x-fault: 429; retry_after=2`, which precedes all others.
"""

import difflib
import math
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from langgraph_rq.worker.dev.offline_model.errors import ErrorReply


def _server_error(status: int, message: str) -> ErrorReply:
    return ErrorReply(status, "server_error", None, message)


def _refusal(status: int, code: str | None, message: str) -> ErrorReply:
    return ErrorReply(status, "invalid_request_error", code, message)


ERRORS = {
    "400": _refusal(400, None, "The request was not understood."),
    "401": _refusal(401, "invalid_api_key", "Incorrect API key provided."),
    "403": _refusal(403, None, "This key may not use this model."),
    "404": _refusal(404, "model_not_found", "The model does not exist."),
    "413": _refusal(413, None, "The request is too large."),
    "422": _refusal(422, None, "The request could not be processed."),
    "429": ErrorReply(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "500": _server_error(500, "The server had an error while processing your request."),
    "502": _server_error(502, "Bad gateway."),
    "503": _server_error(503, "The engine is currently overloaded, please try again later."),
    "504": _server_error(504, "Gateway timeout."),
    "529": ErrorReply(529, "overloaded_error", None, "Overloaded."),
    "content_filter": _refusal(400, "content_filter", "The prompt was filtered by the content management policy."),
    "context_length": _refusal(400, "context_length_exceeded", "This model's maximum context length was exceeded."),
    "quota": ErrorReply(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."),
}
"""Error replies, by the name of the fault."""

BREAKS = {
    "latency": "answers after `latency_s`",
    "hang": "never answers; ends when the client leaves",
    "cut": "closes the connection in the middle of the body or of the stream",
    "malformed": "answers 200 with a body, or a stream, that is not JSON",
    "reset": "resets the connection before any answer",
}
"""Faults that are not error replies: name -> effect."""

NAMES = (*ERRORS, *BREAKS)


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One rule; raises a ValueError if it is invalid.

    Args:
        fault: One of `NAMES`.
        model: Applies only to calls of this model. None: all.
        match: Applies only to prompts that contain this text. None: all.
        times: How often the rule applies. None: always.
        probability: Of applying to a matching call.
        seed: Of the random numbers for `probability`.
        beyond_per_s: Applies only to calls beyond so many in one second. None: to all.
        retry_after_s: Sent as Retry-After (whole seconds, rounded up) and retry-after-ms. None: not sent.
        latency_s: Seconds before the fault takes effect. None: the server's latency.
    """

    fault: str
    model: str | None = None
    match: str | None = None
    times: int | None = None
    probability: float = 1.0
    seed: int = 0
    beyond_per_s: int | None = None
    retry_after_s: float | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.fault not in NAMES:
            raise ValueError(
                f"expected fault to be one of {', '.join(NAMES)}, got: {self.fault}{_hint(self.fault, NAMES)}"
            )
        for name in ("times", "probability", "beyond_per_s", "retry_after_s", "latency_s"):
            value = getattr(self, name)
            if value is not None:
                positive(name, value)
        if self.probability > 1:
            raise ValueError(f"expected probability to be at most 1, got: {self.probability}")
        if self.fault == "latency" and self.latency_s is None:
            raise ValueError("expected latency_s with the fault latency, got none")
        if self.retry_after_s is not None and self.fault not in ERRORS:
            raise ValueError(f"expected retry_after_s only with {', '.join(ERRORS)}, got it with: {self.fault}")

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a rule from a JSON object; an unknown field is an error."""
        if not isinstance(value, dict) or "fault" not in value:
            raise ValueError(f"expected a rule to be an object with a fault, got: {value!r}")
        names = [one.name for one in fields(cls)]
        for name in value:
            if name not in names:
                raise ValueError(f"expected a field of a rule ({', '.join(names)}), got: {name}{_hint(name, names)}")
        return cls(**{**value, "fault": str(value["fault"])})

    @classmethod
    def from_header(cls, value: str) -> Self:
        """Read `fault; retry_after=S; latency=S`, both in seconds and both optional."""
        fault, *options = (part.strip() for part in value.split(";"))
        rule: dict[str, Any] = {"fault": fault}
        for option in options:
            name, _, seconds = option.partition("=")
            if name not in {"latency", "retry_after"}:
                raise ValueError(f"expected latency=S or retry_after=S in x-fault, got: {option}")
            rule[f"{name}_s"] = float(seconds)
        return cls.from_json(rule)


def positive(name: str, value: Any) -> float:
    """Validate that `value` is a finite number of 0 or more; raises a ValueError."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"expected {name} to be a number of 0 or more, got: {value!r}")
    return value


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(slots=True)
class _Armed:
    """An active rule, with its hits and its random numbers."""

    rule: FaultRule
    draws: random.Random
    hits: int = 0
    second: int = 0
    passed: int = 0
    """Calls that it let pass in `second`."""

    def applies(self, model: str, prompt: str) -> bool:
        rule = self.rule
        if rule.times is not None and self.hits >= rule.times:
            return False
        if rule.model not in {None, model} or (rule.match is not None and rule.match not in prompt):
            return False
        if rule.probability < 1 and self.draws.random() >= rule.probability:
            return False
        if rule.beyond_per_s is not None and self._is_within(rule.beyond_per_s):
            return False
        self.hits += 1
        return True

    def _is_within(self, per_s: int) -> bool:
        second = int(time.monotonic())
        self.passed = self.passed + 1 if second == self.second else 1
        self.second = second
        return self.passed <= per_s


class FaultPlan:
    """The active rules, in order."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def replace(self, rules: Iterable[FaultRule]) -> None:
        """Replace all rules."""
        self._armed = [_Armed(rule, random.Random(rule.seed)) for rule in rules]  # noqa: S311 - repeatable, not secret

    def choose(self, model: str, prompt: str) -> FaultRule | None:
        """Return the rule that applies to a call and count the hit; None: no fault."""
        return next((armed.rule for armed in self._armed if armed.applies(model, prompt)), None)

    def as_json(self) -> list[dict[str, Any]]:
        """Return each rule with its `hits`."""
        return [{**asdict(armed.rule), "hits": armed.hits} for armed in self._armed]

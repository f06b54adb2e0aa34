"""One circuit breaker per model for the whole fleet: stops calls to a provider that is down, probes for its return.

closed     calls go through; failures are counted, in a row and in a sliding window
open       calls are refused until the open time is over
half_open  single calls go through, the probes, each with a lease: a good one closes, a failed one opens for longer

Beside the state there is a cooldown: a provider that answers 429 is healthy and wants a pause, so all callers wait.
Each transition starts a new generation. A call reports under the generation that admitted it, and a report of an older
one has no vote: a slow failure from before an outage cannot reopen a breaker that has closed since. A probe that is
answered after its lease still closes the breaker: the provider is back, the next caller is admitted.

Keys, forgotten 24 hours after their last use; forgetting never makes a transition, and all times are the server's:
    agent:breaker:<name>         hash  state, why, generation, changed_at, open_ends_at, cooldown_ends_at (ms since the
                                       epoch), openings (in a row), failures (in a row), successes (of probes),
                                       good:<token> (a probe that was answered), forget_at,
                                       slot:0 to slot:9 (the window: "bucket calls failed")
    agent:breaker_probes:<name>  zset  token of a probe in flight -> end of its lease (ms since the epoch)
    agent:breakers               zset  name -> when it may be forgotten (ms since the epoch)

Source: Michael Nygard, Release It!, "Circuit Breaker"; the failed share of a window and the minimum of calls are
resilience4j's; leases and generations keep the fleet right when callers die or come late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

from langgraph_rq.shared.connections.scripts import Call, load_script

INDEX_KEY = "agent:breakers"
KEEP_MS = 24 * 60 * 60 * 1000
"""Long enough that a night without traffic does not forget how often a breaker opened; not a setting of health."""

QUOTA_CODES = frozenset({"billing_hard_limit_reached", "billing_not_active", "insufficient_quota"})
"""Error codes of OpenAI-compatible APIs after which no call succeeds until the account is paid."""

_MIN_S, _MAX_S = 0.001, 365 * 24 * 60 * 60


class BreakerState(StrEnum):
    """What the breaker does with calls; see the module's first lines."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(StrEnum):
    """The answer to "may this call start?"."""

    ALLOW = "allow"
    PROBE = "probe"
    """Yes, and its outcome decides for all callers: report it before its lease ends."""
    REJECT = "reject"


class Outcome(StrEnum):
    """How an admitted call ended."""

    OK = "ok"
    FAIL = "fail"
    """No connection, timeout, a 5xx, a broken stream, a body that cannot be read."""
    IGNORE = "ignore"
    """The request was at fault, not the provider. Has no vote, but a probe that ends so is good: it was answered."""
    CANCEL = "cancel"
    """Not called, or its caller has gone. Has no vote; a probe's slot is free again."""
    RATE_LIMITED = "rate_limited"
    """429: all callers pause for as long as the provider asked. Has no vote; a probe's slot is free again."""
    QUOTA = "quota"
    """The account is spent: opens at once."""


class Why(StrEnum):
    """Why a breaker opened."""

    FAILURES = "failures"
    FAILURE_RATE = "failure_rate"
    PROBE_FAILED = "probe_failed"
    QUOTA = "quota"


def outcome_of(status: int, code: str | None = None) -> Outcome:
    """Class an HTTP answer by its status and the error code in its body."""
    if code in QUOTA_CODES or status == 402:
        return Outcome.QUOTA
    if status == 429:
        return Outcome.RATE_LIMITED
    if status == 408 or status >= 500:
        return Outcome.FAIL
    return Outcome.OK if 200 <= status < 300 else Outcome.IGNORE


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens and closes. Callers of one breaker should agree on them: each call brings its own.

    It opens when the last `failure_threshold` calls failed and at least `failure_rate` of the window did, or when the
    window holds `min_calls` and `failure_rate` of them failed. Only a failure opens it, never a success.

    Raises:
        ValueError: A value is out of its range; the message names it.
    """

    failure_threshold: int = 5
    window_s: float = 10.0
    """In ten steps, so the window is 9/10 of this to all of it. 0: no window, only `failure_threshold` counts."""
    min_calls: int = 20
    failure_rate: float = 0.5
    open_s: float = 30.0
    """The first open time; each failed probe doubles it."""
    max_open_s: float = 300.0
    jitter: float = 0.1
    """The open time varies by this share of it, up and down, so that breakers that opened together probe apart."""
    probes: int = 1
    """Calls in flight at most while half-open."""
    successes_to_close: int = 1
    probe_lease_s: float = 65.0
    """A probe that has not reported by then counts as dead: the longest timeout of a call and 5 s."""
    half_open_wait_s: float = 1.0
    """The wait of a caller refused while half-open, unless a lease ends sooner."""
    max_cooldown_s: float = 120.0

    def __post_init__(self) -> None:
        """Refuse values that cannot work now, not in the middle of an outage."""
        for name in ("failure_threshold", "min_calls", "probes", "successes_to_close"):
            self._check(name, 1, 1_000_000, "a whole number", int)
        for name in ("open_s", "max_open_s", "probe_lease_s", "half_open_wait_s", "max_cooldown_s"):
            self._check(name, _MIN_S, _MAX_S)
        if self.window_s != 0:
            self._check("window_s", _MIN_S, _MAX_S, "0 or a number")
        self._check("failure_rate", 0.001, 1)
        self._check("jitter", 0, 0.9)
        if self.max_open_s < self.open_s:
            raise ValueError(f"expected max_open_s to be at least open_s ({self.open_s}), got: {self.max_open_s}")

    def _check(self, name: str, low: float, high: float, kind: str = "a number", types: Any = (int, float)) -> None:
        value = getattr(self, name)
        if not isinstance(value, types) or not low <= value <= high:  # NaN is in no range
            raise ValueError(f"expected {name} to be {kind} from {low:,} to {high:,}, got: {value!r}")


class Transition(NamedTuple):
    """The state before and after a call of ours. Of all callers, exactly the one that made a transition sees it."""

    before: BreakerState
    after: BreakerState
    generation: int
    why: Why | None
    """Why it opened; None once it has closed."""
    open_ms: int
    """Rest of the open time, 0 unless open."""

    @property
    def changed(self) -> bool:
        """Whether this call made the transition: its caller emits the event."""
        return self.before != self.after


class Admission(NamedTuple):
    """The answer to "may this call start?"; an admitted call must be reported under `generation`, whatever happens."""

    verdict: Verdict
    generation: int
    wait_ms: int
    """Of a refusal: ask again after this. Open or cooling down, the answer is the same until then."""
    before: BreakerState
    state: BreakerState
    """A refusal by a closed breaker is a cooldown."""
    why: Why | None
    """Why it opened; None while closed."""

    @property
    def admitted(self) -> bool:
        """Whether the call may start."""
        return self.verdict is not Verdict.REJECT

    @property
    def transition(self) -> Transition:
        """The transition that asking made: the first probe makes an open breaker half-open."""
        return Transition(self.before, self.state, self.generation, self.why, 0)


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A breaker as the command line and the gateway show it. Instants are ms of the server's clock, 0 for none."""

    name: str
    state: BreakerState
    why: Why | None
    generation: int
    changed_at: int
    open_ends_at: int
    """From then on a call is admitted as a probe; the state says open until one asks."""
    cooldown_ends_at: int
    failures: int
    """In a row."""
    window_calls: int
    window_failed: int
    probes_in_flight: int


def allow_call(name: str, token: str, limits: BreakerLimits, *, now_ms: int | None = None) -> Call[Admission]:
    """Ask whether a call to `name` may start.

    Args:
        name: The breaker, such as `openai/gpt-4o-mini`.
        token: Unique to this call. Asking again with the token of a probe in flight answers `probe` again.
        limits: When it opens and closes.
        now_ms: A test's clock; None for the server's.
    """
    settings = (limits.probes, _ms(limits.probe_lease_s), _ms(limits.half_open_wait_s), KEEP_MS)
    return Call(load_script("shared/breaker/allow"), _keys(name), (token, *settings, _clock(now_ms)), _admission)


def report_call(
    name: str,
    token: str,
    generation: int,
    outcome: Outcome,
    limits: BreakerLimits,
    *,
    retry_after_ms: int = 0,
    now_ms: int | None = None,
) -> Call[Transition]:
    """Report how an admitted call ended; repeating the report of a probe changes nothing.

    Args:
        name: The breaker.
        token: The call's, as in `allow_call`.
        generation: The admission's.
        outcome: How it ended.
        limits: When it opens and closes.
        retry_after_ms: With `rate_limited`: the pause that the provider asked for, or the caller's guess.
        now_ms: A test's clock; None for the server's.
    """
    health = (limits.failure_threshold, _ms(limits.window_s), limits.min_calls, limits.failure_rate)
    opening = (_ms(limits.open_s), _ms(limits.max_open_s), limits.jitter, limits.successes_to_close)
    args = (name, token, generation, outcome, retry_after_ms, *health, *opening, _ms(limits.max_cooldown_s), KEEP_MS)
    keys = (*_keys(name), INDEX_KEY)
    return Call(load_script("shared/breaker/report"), keys, (*args, _clock(now_ms)), _transition)


def reset_call(name: str, *, now_ms: int | None = None) -> Call[Transition]:
    """Close `name` by hand: nothing counted, no cooldown, and calls in flight have no vote."""
    return Call(load_script("shared/breaker/reset"), _keys(name), (KEEP_MS, _clock(now_ms)), _transition)


def read_call(name: str, limits: BreakerLimits, *, now_ms: int | None = None) -> Call[BreakerStatus | None]:
    """Read `name` without changing it; None if no call was reported to it for 24 hours."""
    args = (_ms(limits.window_s), _clock(now_ms))
    return Call(load_script("shared/breaker/read"), _keys(name), args, lambda reply: reply and _status(name, reply))


def read_all_call(
    limits: BreakerLimits, *, most: int | None = None, now_ms: int | None = None
) -> Call[list[BreakerStatus]]:
    """Read all breakers that were used in the last 24 hours, by name, or `most` of them, without changing them."""

    def decode(reply: Sequence[Any]) -> list[BreakerStatus]:
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return sorted((_status(name.decode(), status) for name, status in pairs), key=attrgetter("name"))

    args = (_ms(limits.window_s), most or 0, _clock(now_ms))
    return Call(load_script("shared/breaker/read_all"), (INDEX_KEY,), args, decode)


def _keys(name: str) -> tuple[str, str]:
    return f"agent:breaker:{name}", f"agent:breaker_probes:{name}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _clock(now_ms: int | None) -> int | str:
    return "" if now_ms is None else now_ms


def _why(raw: bytes | None) -> Why | None:
    return Why(raw.decode()) if raw else None


_STATES = {state.value.encode(): state for state in BreakerState}
_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}


def _admission(reply: Sequence[Any]) -> Admission:
    verdict, generation, wait_ms, before, after, why = reply
    return Admission(_VERDICTS[verdict], generation, wait_ms, _STATES[before], _STATES[after], _why(why))


def _status(name: str, reply: Sequence[Any]) -> BreakerStatus:
    state, why, *numbers = reply
    return BreakerStatus(name, BreakerState((state or b"closed").decode()), _why(why), *(int(n or 0) for n in numbers))


def _transition(reply: Sequence[Any]) -> Transition:
    before, after, generation, why, open_ms, _ = reply
    return Transition(_STATES[before], _STATES[after], generation, _why(why), open_ms)

"""The log events of the guards; metrics, traces and alerts are made from them."""

from collections.abc import Iterable

from langgraph_rq.shared.breaker.circuit_breaker import Outcome, Transition
from langgraph_rq.shared.budget.token_budget import Alert, Busy, Refused
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.guards.admission import Settled

_TRANSITIONS = {"open": "breaker.opened", "half_open": "breaker.half_opened", "closed": "breaker.closed"}

_log = get_logger(__name__)


def emit_transition(breaker: str, transition: Transition | None) -> None:
    """Log a breaker's change of state; no event if the state is unchanged or unknown (None)."""
    if transition and transition.changed:
        _log.warning(_TRANSITIONS[transition.after], breaker=breaker, why=transition.why)


def emit_refused(breaker: str, refused: Refused) -> None:
    """Log a call that the budget refused."""
    _log.warning("budget.refused", scope=refused.scope, unit=refused.unit, breaker=breaker)


def emit_waiting(breaker: str, busy: Busy) -> None:
    """Log a call that waits for running calls to settle."""
    _log.info("budget.awaited", scope=busy.scope, unit=busy.unit, breaker=breaker)


def emit_called(
    breaker: str,
    model: str,
    outcome: Outcome,
    *,
    duration_ms: int,
    input_tokens: int,
    output_tokens: int,
    cost_nano_usd: int,
    is_estimated: bool,
) -> None:
    """Log a model call that has ended."""
    _log.info(
        "model.called",
        model=model,
        provider=breaker.partition("/")[0],
        outcome=outcome.value,
        duration_ms=duration_ms,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_nano_usd=cost_nano_usd,
        estimated=is_estimated,
    )


def emit_learned(breaker: str, pace: Pace, is_kept: bool | None) -> None:
    """Log the rates that a provider reported; `is_kept` is None while Redis is away."""
    _log.info(
        "rate.learned",
        breaker=breaker,
        calls_per_minute=pace.calls_per_minute,
        tokens_per_minute=pace.tokens_per_minute,
        kept=bool(is_kept),
    )


def emit_settled(breaker: str, settled: Settled | None) -> None:
    """Log what settling a call changed; None: Redis was away, and the reservation is charged when it expires."""
    if settled:
        emit_transition(breaker, settled.transition)
        emit_alerts(settled.settlement.alerts)
    else:
        _log.warning("model_call.not_settled", breaker=breaker, reason="Redis is away; charged when it expires")


def emit_alerts(alerts: Iterable[Alert]) -> None:
    """Log the budget alerts that a script returned: each alert is returned to one caller only."""
    for alert in alerts:
        _log.warning(
            "budget.alerted",
            scope=alert.scope,
            subject=alert.subject,
            unit=alert.unit,
            percent=alert.percent,
            used=alert.used,
            limit=alert.limit,
        )

"""Resilience: does the system answer, and does it go on when a provider or a worker does not?"""

import time
from collections.abc import Collection

from langgraph_rq.producer.doctor.finding import Check, Finding, failed, passed, warned
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.breaker.circuit_breaker import BreakerState, read_all_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.settings import BreakerSettings, CallSettings, load

_TELL_GATEWAY = "give --gateway URL, so that it is asked"
_WRAP = "wrap it: guarded_chat_model(model, fallbacks=[...])"
_SHOWN = 5
"""Models that a finding names."""


def workers_live(system: System) -> Finding:
    """Without a worker tasks wait; with one only, its restart is an outage."""
    workers = len(system.fleet.workers)
    if not workers:
        return failed("no worker is alive", "start workers, or look at why they end: their first lines say it")
    if workers == 1:
        return warned("one worker only: none takes over when it dies", "start a second one on another host")
    return passed(f"{workers} workers alive")


def breakers_are_closed(system: System) -> Finding:
    """An open breaker is a provider that is down, or a key that is wrong."""
    limits = load(BreakerSettings).limits(load(CallSettings).timeout_s)
    breakers = scripts.run_sync(system.client, read_all_call(limits))
    open_ones = [one.name for one in breakers if one.state is not BreakerState.CLOSED]
    if open_ones:
        return warned(f"not closed: {', '.join(open_ones)}", "langgraph-producer breaker says why")
    return _no_guarded_call(system) or passed(f"on for {_listed(system.guarded)}; all closed")


def calls_are_retried(system: System) -> Finding:
    """A single failed call should not fail a task."""
    once = [breaker for breaker, model in system.guarded.items() if model.attempts < 2]
    if once:
        return warned(f"tried once by the guards: {_listed(once)}", f"{_WRAP}; LGRQ_CALL_ATTEMPTS is the assistant's")
    least = min((model.attempts for model in system.guarded.values()), default=0)
    return _no_guarded_call(system) or passed(f"{least} tries or more per model")


def there_is_a_fallback(system: System) -> Finding:
    """When the main model is down another one should answer."""
    alone = [breaker for breaker, model in system.guarded.items() if not model.fallbacks]
    if alone:
        return warned(
            f"without a fallback: {_listed(alone)}", f"{_WRAP}; LGRQ_ASSISTANT_FALLBACK_MODEL is the assistant's"
        )
    fallbacks = {name for model in system.guarded.values() for name in model.fallbacks}
    return _no_guarded_call(system) or passed(f"{_listed(fallbacks)} when others cannot answer")


def _no_guarded_call(system: System) -> Finding | None:
    """Warn of graphs whose calls may go past the guards: no worker that serves them knows of a guarded one."""
    if not system.fleet.workers:
        return warned("not known: no worker is alive", "start workers")
    if system.unguarded_graphs or not system.guarded:
        graphs = ", ".join(system.unguarded_graphs) or "no graph"
        return warned(
            f"not known: the workers of {graphs} have guarded no model call",
            "send a task and ask again; calls past LangChain need guarded() or guarded_chat_model()",
        )
    return None


def _listed(names: Collection[str]) -> str:
    """Show the first few of many names."""
    first, rest = sorted(names)[:_SHOWN], len(names) - _SHOWN
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def gateway_answers(system: System) -> Finding:
    """Health says that the process lives, readiness that it can do its work."""
    if system.urls.gateway is None:
        return warned("not checked", _TELL_GATEWAY)
    began = time.monotonic()
    status = {path: system.get(f"{system.urls.gateway}{path}")[0] for path in ("/health", "/ready")}
    if set(status.values()) != {200}:
        return failed(
            "; ".join(f"{path} answered {code}" for path, code in status.items() if code != 200),
            "GET /ready names the part that is not ready",
        )
    return passed(f"healthy and ready, in {(time.monotonic() - began) * 1000:.0f} ms")


CHECKS: dict[str, Check] = {
    "workers": workers_live,
    "circuit breakers": breakers_are_closed,
    "retries": calls_are_retried,
    "fallback": there_is_a_fallback,
    "health and readiness": gateway_answers,
}

"""Resilience: does the system answer, and does it go on when a provider or a worker does not?"""

import time

from langgraph_rq.producer.doctor.finding import Check, Finding, failed, passed, warned
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.breaker.circuit_breaker import BreakerState, read_all_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.settings import AssistantSettings, BreakerSettings, CallSettings, load

_TELL_GATEWAY = "give --gateway URL, so that it is asked"


def workers_live(system: System) -> Finding:
    """Without a worker tasks wait; with one only, its restart is an outage."""
    workers = len(scripts.run_sync(system.client, fleet_call()).workers)
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
    return passed(f"on for every guarded model; {len(breakers)} known, all closed")


def calls_are_retried(_system: System) -> Finding:
    """A single failed call should not fail a task."""
    attempts = load(CallSettings).attempts
    if attempts < 2:
        return warned("a model call is tried once", "set LGRQ_CALL_ATTEMPTS to 2 or more")
    return passed(f"up to {attempts} tries per model")


def there_is_a_fallback(_system: System) -> Finding:
    """When the main model is down another one should answer."""
    assistant = load(AssistantSettings)
    mains = {assistant.simple_model, assistant.medium_model, assistant.complex_model}
    if mains == {assistant.fallback_model}:
        return warned("the fallback model is the only model", "set LGRQ_ASSISTANT_FALLBACK_MODEL to another one")
    return passed(f"{assistant.fallback_model} answers when others cannot")


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

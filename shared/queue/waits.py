"""What tasks wait for: a thing such as a model's breaker or a budget, or only their time; and what frees it.

A task that cannot go on now gives back its slot and lies in the waiting set of the one thing that it waits for, see
waits.lua. Things are named by what refused them:
    breaker:<name>               a model's circuit breaker, or its cooldown after a 429
    budget:<scope>, budget:<scope>:<subject>   room in a budget that running calls hold
    pace:<name>                  the rate of a model; such a task waits for a time of its own
    start                        the time at which it was asked to start
    provider, redis, retry, worker   likewise: a failed provider, an outage, another attempt, another worker
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.queue.keys import task_hash

BREAKER, BUDGET, PACE = "breaker:", "budget:", "pace:"
PROVIDER = "provider"
REDIS = "redis"
RETRY = "retry"
START = "start"
WORKER = "worker"

_WORDS = {
    PROVIDER: "a model provider",
    REDIS: "Redis, which was away",
    RETRY: "its next attempt",
    START: "its time",
    WORKER: "a worker that can run it",
}


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for that is given back.

    Args:
        thing: Its name, as above.
        delay_ms: For so long; 0: until the thing is free, a minute at most.
        doubles: Whether each later wait of the task for the same thing gets longer: 1 s at first, 60 s at last.
        is_attempt: Whether the claim that ends so counts as an attempt.
    """

    thing: str
    delay_ms: int = 0
    doubles: bool = True
    is_attempt: bool = False


AT_ONCE = Wait("", is_attempt=True)
"""It waits for nothing, and is next on its queue."""
AFTER_OUTAGE = Wait(REDIS, 1_000, is_attempt=True)


def explain(thing: str, until_ms: int) -> str:
    """Say what a task waits for, and until when (ms since the epoch) at least."""
    instant = datetime.fromtimestamp(until_ms / 1000, UTC)
    if thing == START:
        return f"waits for its time, {instant.isoformat(timespec='seconds')}"
    at = instant.strftime("%H:%M:%S")
    return f"waits for {describe(thing)}, asked again at {at} at the earliest"


def describe(thing: str) -> str:
    """Say what a thing is."""
    kind, _, name = thing.partition(":")
    match f"{kind}:":
        case "breaker:":
            return name
        case "pace:":
            return f"the rate of {name}"
        case "budget:":
            return f"room in the budget of {'the fleet' if name == 'global' else name.replace(':', ' ')}"
    return _WORDS.get(thing, thing)


def await_call(thing: str, wait_ms: int, now_ms: int | str = "") -> Call[int]:
    """Record that a thing is refused for so long; see await.lua."""
    return Call(load_script("shared/queue/scripts/waiting/await"), [], [thing, wait_ms, now_ms], int)


def keep_call(task_id: str, epoch: int, worker: str, thing: str) -> Call[bool]:
    """Record what a running task waits for in its worker's memory, empty: nothing; False: it is not the worker's."""
    return Call(load_script("shared/queue/scripts/running/keep"), [task_hash(task_id)], [epoch, worker, thing], bool)


def wake_call(things: Sequence[str], tasks: int = 0, now_ms: int | str = "") -> Call[int]:
    """Let tasks go on that wait for these things, so many of each, 0 for all; returns how many sets were marked."""
    return Call(load_script("shared/queue/scripts/waiting/wake"), [], [tasks, now_ms, *things], int)


def wake_all_call(kind: str, cursor: int = 0, now_ms: int | str = "") -> Call[int]:
    """Let all tasks go on that wait for things of a kind, such as `BUDGET`.

    Returns the cursor for the next call, since each one looks at a few hundred things; 0 after the last one.
    """
    return Call(load_script("shared/queue/scripts/waiting/wake_all"), [], [kind, cursor, now_ms], int)

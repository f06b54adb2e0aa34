"""The two questions around a model call, each one script and one round trip: may it start, and what did it use?

The decisions stay where they are: each script runs those of the queue, the breaker and the budget, as functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.breaker.circuit_breaker import Admission, Transition
from langgraph_rq.shared.budget.token_budget import RESERVE, SETTLE, Refused, Reservation, Settlement
from langgraph_rq.shared.connections.held import Argument
from langgraph_rq.shared.connections.scripts import Call, Script, load_script, make_script
from langgraph_rq.shared.queue.task_queue import Ownership

_SHEBANG = "#!lua flags=allow-oom\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the three said; None: not asked any more, because the one before said no."""

    ownership: Ownership
    allowed: Admission | None = None
    reserved: Reservation | Refused | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What reporting and booking a call changed."""

    transition: Transition
    settlement: Settlement


def admit_call(
    owns: Call[Ownership] | None, allow: Call[Admission], reserve: Call[Reservation | Refused] | None
) -> Call[Answer]:
    """Ask whether a call may start, in this order; without a task there is no `owns`, without a budget no `reserve`."""

    def decode(reply: Sequence[Any]) -> Answer:
        parts = (
            allow.decode(reply[1]) if len(reply) > 1 else None,
            reserve.decode(reply[2]) if reserve and len(reply) > 2 else None,
        )
        return Answer(Ownership(reply[0]), *parts)

    return Call(_ADMIT, *_slots(owns, allow, reserve), decode)


def report_and_settle_call(report: Call[Transition], settle: Call[Settlement], use: Call[bool] | None) -> Call[Settled]:
    """Report how a call ended, book what it used, and add that to its task if it has one."""
    return Call(
        _SETTLE, *_slots(report, settle, use), lambda reply: Settled(report.decode(reply[0]), settle.decode(reply[1]))
    )


def _slots(*calls: Call[Any] | None) -> tuple[list[str], list[Argument]]:
    keys: list[str] = []
    arguments: list[Argument] = []
    for call in calls:
        if call is None:
            arguments += (0, 0)
        else:
            keys += call.keys
            arguments += (len(call.keys), len(call.args), *call.args)
    return keys, arguments


def _function(name: str, script: Script) -> str:
    """Make a Lua function of a script: its KEYS and ARGV become the function's arguments."""
    return f"local function {name}(KEYS, ARGV)\n{script.source.removeprefix(_SHEBANG)}\nend\n"


def _script(name: str, **verbs: Script) -> Script:
    functions = [_function(verb, script) for verb, script in verbs.items()]
    parts = (
        load_script("worker/guards/prelude").source,
        *functions,
        load_script(name).source.removeprefix(_SHEBANG),
    )
    return make_script(name, _SHEBANG + "\n".join(parts))


_ADMIT = _script(
    "worker/guards/admit",
    owns=load_script("shared/queue/owns"),
    allow=load_script("shared/breaker/allow"),
    reserve=RESERVE,
)
_SETTLE = _script(
    "worker/guards/settle",
    report=load_script("shared/breaker/report"),
    settle=SETTLE,
    use=load_script("shared/queue/use"),
)

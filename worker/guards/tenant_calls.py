"""The places of a tenant's model calls: at most so many are in flight in the whole fleet.

A call takes its place when it is admitted and gives it back when it is settled. The place of a call that no worker
settled goes at the end of its reservation. Calls without a place wait, as for a budget.

Keys:
    agent:calls:<tenant>   zset  id of a call -> end of its reservation (ms), by Redis' clock; expires with the last
"""

from dataclasses import dataclass

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.tasks import DEFAULT_TENANT

CALLS = "agent:calls:"


@dataclass(frozen=True, slots=True)
class Place:
    """A call's place, as slots of the scripts that admit and settle it."""

    keys: list[str]
    args: list[Argument]


def place_of(rid: str, tenant: str, most: int | None, life_ms: int = 0) -> Place | None:
    """Return the place of the call `rid`; None: its tenant has no limit, as the default one, the operator's own."""
    if most is None or tenant == DEFAULT_TENANT:
        return None
    return Place([CALLS + tenant], [rid, most, life_ms, ""])

"""Notice a bill that runs away: an hour that costs three times the mean hour of the last seven days.

A limit on the day alerts late, and a limit that was never set never alerts. Workers check every minute; the alert is
raised once per hour, by one script, beside the alerts of the token budget.

Key:
    agent:budget:hours  hash  hour -> nano-dollars, and what was looked at last; 8 days
"""

from dataclasses import dataclass

from langgraph_rq.shared.budget.token_budget import ALERTS
from langgraph_rq.shared.budget.usage import POLICY
from langgraph_rq.shared.connections.scripts import Call, load_script

HOURS = "agent:budget:hours"
TIMES = 3
"""So many times the mean is far above the usual."""
HISTORY_HOURS = 24
"""Without a day's history there is no usual."""


@dataclass(frozen=True, slots=True)
class HourlyCost:
    """This hour's cost so far and the mean hour before it, in nano-dollars; `is_alert` for exactly one caller."""

    cost_nano_usd: int
    mean_nano_usd: int
    is_alert: bool


def hourly_cost_call(utc_offset_s: int = 0, now_ms: int | None = None) -> Call[HourlyCost]:
    """Look at what this hour costs.

    Args:
        utc_offset_s: Begin of the day where the fleet's policy does not say it.
        now_ms: A test's clock; None: the server's.
    """
    return Call(
        load_script("shared/budget/scripts/hourly_cost"),
        [HOURS, ALERTS, POLICY],
        [utc_offset_s, TIMES, HISTORY_HOURS, "" if now_ms is None else now_ms],
        lambda reply: HourlyCost(int(reply[0]), int(reply[1]), bool(reply[2])),
    )

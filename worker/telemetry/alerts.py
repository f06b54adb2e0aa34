"""Bring budget alerts to people: watch what an hour costs, and post each alert to the webhook, if there is one.

The stream `agent:budget:alerts` is the outbox: the scripts that book a call write the alert in the same step, so none
is lost and none is told before it is true. A consumer group shares it between the workers; an alert that could not be
posted is tried again, by any worker, for a day.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

from langgraph_rq.shared.budget.answers import show_amount
from langgraph_rq.shared.budget.hourly_cost import TIMES, hourly_cost_call
from langgraph_rq.shared.budget.token_budget import ALERTS
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.telemetry.webhook import Webhook

GROUP = "webhook"
_LOOK_S = 60.0
_BLOCK_MS = 1_000
_TRY_AGAIN_MS = 30_000
_TRY_FOR_S = 86_400
_BATCH = 16

_log = get_logger(__name__)


class AlertWatch:
    """Watches from `start` to `stop`, in a thread of its own.

    Args:
        url: Redis; the thread opens a connection of its own.
        consumer: Unique to this process.
        webhook: Where alerts are posted; None for nowhere.
        utc_offset_s: Where the budget's day begins.
    """

    def __init__(self, url: str, consumer: str, webhook: Webhook | None, utc_offset_s: int) -> None:
        self._redis: Any = open_sync(url, connections=1, timeout_s=3 * _BLOCK_MS / 1000)
        self._consumer = consumer
        self._webhook = webhook
        self._utc_offset_s = utc_offset_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what has not been posted is another worker's."""
        self._stopping.set()
        self._thread.join(3.0)
        self._redis.close()

    def _run(self) -> None:
        looked_at = retried_at = 0.0
        while not self._stopping.is_set():
            try:
                if time.monotonic() - looked_at > _LOOK_S or not looked_at:
                    looked_at = time.monotonic()
                    self.look()
                if self._webhook is None:
                    self._stopping.wait(_LOOK_S)
                    continue
                if time.monotonic() - retried_at > _TRY_AGAIN_MS / 1000:
                    retried_at = time.monotonic()
                    self._post(self._take_over())
                self._post(self._read())
            except (RedisError, OSError) as error:
                _log.warning("alerts.delayed", error=str(error))
                self._stopping.wait(_BLOCK_MS / 1000)

    def look(self, now_ms: int | None = None) -> None:
        """Tell if this hour is far dearer than usual."""
        found = scripts.run_sync(self._redis, hourly_cost_call(self._utc_offset_s, now_ms))
        if found.is_alert:
            _log.warning(
                "budget.alerted",
                scope="global",
                subject="",
                unit="hour_cost",
                percent=found.cost_nano_usd * 100 // found.mean_nano_usd,
                used=found.cost_nano_usd,
                limit=found.mean_nano_usd * TIMES,
            )

    def _read(self) -> list[Any]:
        try:
            reply = self._redis.xreadgroup(GROUP, self._consumer, {ALERTS: ">"}, count=_BATCH, block=_BLOCK_MS)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            with suppress(ResponseError):  # another worker was faster
                self._redis.xgroup_create(ALERTS, GROUP, id="0", mkstream=True)
                self._redis.expire(ALERTS, 7 * 86_400)
            return []
        return list(reply[0][1]) if reply else []

    def _take_over(self) -> list[Any]:
        try:
            _, entries, *_ = self._redis.xautoclaim(ALERTS, GROUP, self._consumer, _TRY_AGAIN_MS, "0-0", count=_BATCH)
        except ResponseError:
            return []
        return list(entries)

    def _post(self, entries: list[Any]) -> None:
        assert self._webhook
        for entry_id, fields in entries:
            written_s = int(entry_id.split(b"-")[0]) / 1000
            outcome = self._post_one(entry_id.decode(), {k.decode(): v.decode() for k, v in (fields or {}).items()})
            if outcome != "failed" or time.time() - written_s > _TRY_FOR_S:
                self._redis.xack(ALERTS, GROUP, entry_id)

    def _post_one(self, entry_id: str, fields: Mapping[str, str]) -> str:
        assert self._webhook
        outcome, error = "failed", None
        try:
            status = self._webhook.post(describe(entry_id, fields))
        except OSError as problem:
            error = str(problem)
        else:
            passing = status in {408, 429} or status >= 500
            outcome = "ok" if 200 <= status < 300 else "failed" if passing else "refused"
            error = None if outcome == "ok" else f"HTTP {status}"
        tell = _log.info if outcome == "ok" else _log.warning
        tell("alert.posted", outcome=outcome, error=error)
        return outcome


def describe(entry_id: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Write an alert for a webhook; `text` is what chat programs show."""
    unit, used, limit = fields["unit"], int(fields["used"]), int(fields["limit"])
    whose = {"global": "all workers"}.get(fields["scope"], f"{fields['scope']} {fields['subject']}")
    amounts = [show_amount(amount, "tokens" if unit == "tokens" else "cost") for amount in (used, limit)]
    if unit == "hour_cost":
        text = f"This hour costs {amounts[0]}, more than three times the mean hour of the last seven days"
    else:
        text = f"{fields['percent']} % of the daily {unit} budget of {whose} is used: {amounts[0]} of {amounts[1]}"
    numbers = {"percent": int(fields["percent"]), "used": used, "limit": limit}
    return {"id": entry_id, "event": "budget.alerted", "text": text, **fields, **numbers}

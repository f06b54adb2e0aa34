"""Delivery of budget alerts: checks the cost of the current hour, and posts each alert to the webhook if there is one.

The stream `agent:budget:alerts` is the outbox: the scripts that book a call add the alert in the same step, so none is
lost and none is premature. A consumer group shares it between the workers; an alert that could not be posted is
retried, by any worker, for a day.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.budget.answers import show_amount
from langgraph_rq.shared.budget.hourly_cost import TIMES, hourly_cost_call
from langgraph_rq.shared.budget.token_budget import ALERTS
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import is_outage, open_sync
from langgraph_rq.shared.connections.stream_consumer import Entry, StreamConsumer
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.telemetry.webhook import Webhook

GROUP = "webhook"
_LOOK_S = 60.0
_BLOCK_MS = 1_000
_RETRY_AFTER_MS = 30_000
_RETRY_FOR_S = 86_400
_STREAM_TTL_MS = 7 * 86_400_000
_BATCH = 16
_OUTAGE = Backoff(first_s=1.0, longest_s=30.0)

_log = get_logger(__name__)


class AlertWatch:
    """Deliver alerts from `start` to `stop`, in a thread of its own.

    Args:
        url: Redis; the thread opens a connection of its own.
        consumer: Unique to this process.
        webhook: Where alerts are posted; None: they are only logged.
        utc_offset_s: Start of the budget's day, in seconds east of UTC.
    """

    def __init__(self, url: str, consumer: str, webhook: Webhook | None, utc_offset_s: int) -> None:
        self._redis: Any = open_sync(url, connections=1, timeout_s=3 * _BLOCK_MS / 1000)
        self._consumer = StreamConsumer(
            self._redis,
            stream=ALERTS,
            group=GROUP,
            name=consumer,
            batch=_BATCH,
            retry_after_ms=_RETRY_AFTER_MS,
            stream_ttl_ms=_STREAM_TTL_MS,
        )
        self._webhook = webhook
        self._utc_offset_s = utc_offset_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; another worker posts the alerts that are left."""
        self._stopping.set()
        self._thread.join(3.0)
        self._redis.close()

    def _run(self) -> None:
        looked_at = retried_at = -math.inf
        failures = 0
        while not self._stopping.is_set():
            try:
                if time.monotonic() - looked_at > _LOOK_S:
                    looked_at = time.monotonic()
                    self.look()
                if self._webhook is None:
                    self._stopping.wait(_LOOK_S)
                    continue
                if time.monotonic() - retried_at > _RETRY_AFTER_MS / 1000:
                    retried_at = time.monotonic()
                    self._post_all(self._consumer.take_overdue)
                self._post(self._consumer.read_new(_BLOCK_MS))
                failures = 0
            except Exception as error:  # the thread must survive any of them
                failures += 1
                log = _log.debug if is_outage(error) else _log.warning
                log("alerts.delayed", error=str(error))
                self._stopping.wait(_OUTAGE.pause_s(failures))
        if self._webhook:
            with suppress(RedisError, OSError):
                self._consumer.leave()

    def look(self, now_ms: int | None = None) -> None:
        """Log an alert if this hour costs far more than usual."""
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

    def _post_all(self, take: Callable[[], list[Entry]]) -> None:
        entries = take()
        while entries and not self._stopping.is_set():
            self._post(entries)
            entries = take() if len(entries) >= _BATCH else []

    def _post(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            outcome = self._post_one(entry)
            if outcome != "failed" or time.time() - entry.written_at_ms / 1000 > _RETRY_FOR_S:
                self._consumer.acknowledge([entry])

    def _post_one(self, entry: Entry) -> str:
        outcome, error = self._send(entry)
        if error is None:
            _log.info("alert.posted", outcome=outcome)
        else:
            _log.warning("alert.posted", outcome=outcome, error=error)
        return outcome

    def _send(self, entry: Entry) -> tuple[str, str | None]:
        """Post one alert; return the outcome, and the error unless it is ok."""
        assert self._webhook
        try:
            document = describe(entry.id, {name.decode(): value.decode() for name, value in entry.fields.items()})
        except (LookupError, ValueError) as problem:
            return "refused", f"not an alert: {problem!r}"
        try:
            status = self._webhook.post(document)
        except OSError as problem:
            return "failed", str(problem)
        if 200 <= status < 300:
            return "ok", None
        is_temporary = status in {408, 429} or status >= 500
        return "failed" if is_temporary else "refused", f"HTTP {status}"


def describe(entry_id: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Build the webhook's document of an alert; chat programs show its `text`.

    Raises:
        LookupError, ValueError: The fields are not those of an alert.
    """
    unit, used, limit = fields["unit"], int(fields["used"]), int(fields["limit"])
    whose = {"global": "all workers"}.get(fields["scope"], f"{fields['scope']} {fields['subject']}")
    amounts = [show_amount(amount, "tokens" if unit == "tokens" else "cost") for amount in (used, limit)]
    if unit == "hour_cost":
        text = f"This hour costs {amounts[0]}, more than three times the mean hour of the last seven days"
    else:
        text = f"{fields['percent']} % of the daily {unit} budget of {whose} is used: {amounts[0]} of {amounts[1]}"
    numbers = {"percent": int(fields["percent"]), "used": used, "limit": limit}
    return {"id": entry_id, "event": "budget.alerted", "text": text, **fields, **numbers}

"""Export of spans from Redis to the OTLP endpoint, in a thread of its own; any worker exports for all.

A consumer group shares the stream `agent:spans` between the workers. An entry is deleted when the endpoint has accepted
it, or refused it for good. So a span is sent at least once; a backend recognises a repeated span by its id.
"""

import gzip
import os
import ssl
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote

from redis.exceptions import RedisError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.stream_consumer import Entry, StreamConsumer
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.tracing import KEEP_MS, SPANS, check_sampler, endpoint

GROUP = "otlp"
_BATCH = 500
_RECOVERY_MS = 5_000
"""On top of the longest request: an entry that was not acknowledged for so long is sent again by any worker."""
_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

_DELAY_MS = "OTEL_BSP_SCHEDULE_DELAY"
_TIMEOUTS_S = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_REDIS_TIMEOUT_S = 3.0
_LONGEST_PAUSE_S = 30.0

_log = get_logger(__name__)


class SpanExport:
    """Export spans from `start` to `stop`.

    Args:
        url: Redis; the thread opens a connection of its own.
        consumer: Unique to this process.
        environ: Where the endpoint, its headers, timeout, compression and certificate are, by OpenTelemetry's names.
    """

    def __init__(self, url: str, consumer: str, environ: Mapping[str, str] = os.environ) -> None:
        self._redis: Any = open_sync(url, connections=1, timeout_s=_REDIS_TIMEOUT_S)
        self._post = _Post(environ)
        check_sampler(environ)
        self._gather_s = _number(environ, [_DELAY_MS], 5_000, (10, 3_600_000)) / 1000
        self._backoff = Backoff(self._gather_s, max(self._gather_s, _LONGEST_PAUSE_S))
        self._consumer = StreamConsumer(
            self._redis,
            stream=SPANS,
            group=GROUP,
            name=consumer,
            batch=_BATCH,
            retry_after_ms=int(self._post.timeout_s * 1000) + _RECOVERY_MS,
            stream_ttl_ms=KEEP_MS,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span export", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Export the remaining spans, for at most `timeout_s`, and end the thread."""
        self._stopping.set()
        self._thread.join(timeout_s)
        self._redis.close()

    def _run(self) -> None:
        failures, is_last = 0, False
        while not is_last:
            # A request costs a millisecond of CPU, whatever its size, so spans gather in Redis.
            is_last = self._stopping.wait(self._backoff.pause_s(failures) if failures else self._gather_s)
            try:
                self._send_all(self._consumer.take_overdue)
                self._send_all(self._consumer.read_new)
                failures = 0
            except Exception as error:  # the thread must survive any of them
                failures += 1
                _log.warning("spans.delayed", error=str(error))
        with suppress(RedisError, OSError):
            self._consumer.leave()

    def _send_all(self, take: Callable[[], list[Entry]]) -> None:
        entries = take()
        while entries:
            self._send(entries)
            entries = take() if len(entries) >= _BATCH else []

    def _send(self, entries: Sequence[Entry]) -> None:
        # Requests joined byte by byte are one request: protobuf appends repeated fields.
        status = self._post(b"".join(entry.fields.get(b"spans", b"") for entry in entries))
        if status in _PASSING:
            raise OSError(f"the endpoint answers {status}")
        if status >= HTTPStatus.BAD_REQUEST:
            _log.warning("spans.refused", status=status, entries=len(entries))
        self._consumer.acknowledge(entries, delete=True)


class _Post:
    """The HTTP side, configured by OpenTelemetry's own variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        def given(name: str) -> str:
            return environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environ.get(f"OTEL_EXPORTER_OTLP_{name}") or ""

        pairs = (pair.split("=", 1) for pair in given("HEADERS").split(",") if "=" in pair)
        self._url = endpoint(environ) or ""
        if not self._url.startswith(("http://", "https://")):
            raise SettingsError(f"OTEL_EXPORTER_OTLP_ENDPOINT: expected an http(s) URL, got: {self._url}")
        self._headers = {unquote(name).strip(): unquote(value).strip() for name, value in pairs}
        self._headers["Content-Type"] = "application/x-protobuf"
        self.timeout_s = _number(environ, _TIMEOUTS_S, 10, (0.1, 3_600))
        self._is_gzip = given("COMPRESSION") == "gzip"
        certificate = given("CERTIFICATE") or None
        try:
            self._context = ssl.create_default_context(cafile=certificate)
        except OSError as error:
            raise SettingsError(f"OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read {certificate}: {error}") from error

    def __call__(self, body: bytes) -> int:
        """Post `body` and return the status. Raises OSError when there is no answer."""
        headers = dict(self._headers)
        if self._is_gzip:
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s, context=self._context) as answer:  # noqa: S310
                return int(answer.status)
        except HTTPError as error:
            error.close()
            return error.code


def _number(environ: Mapping[str, str], names: Sequence[str], default: float, bounds: tuple[float, float]) -> float:
    """Read the first of `names` that is set. Raises SettingsError if it is not a number within `bounds`."""
    name = next((name for name in names if environ.get(name)), None)
    if name is None:
        return default
    least, most = bounds
    try:
        number = float(environ[name])
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(f"{name}: expected a number from {least} to {most:,}, got: {environ[name]}")
    return number

"""Send spans from Redis to the OTLP endpoint, in a thread of their own, any worker for all.

A consumer group shares the stream `agent:spans` between the workers; an entry is deleted when the endpoint has taken
it, or refused it for good. What a dead worker had taken, another takes over. So a span is sent at least once: a backend
tells a span that comes twice by its id.
"""

import gzip
import os
import ssl
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote

from redis.exceptions import ResponseError

from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.tracing import KEEP_MS, SPANS, check_sampler, endpoint

GROUP = "otlp"
_BATCH = 500
_RECOVERY_MS = 5_000
"""On top of the longest request: what nobody confirmed for so long, another worker sends."""
_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

_DELAY_MS = "OTEL_BSP_SCHEDULE_DELAY"
_TIMEOUTS_S = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
_REDIS_TIMEOUT_S = 3.0

_log = get_logger(__name__)


class SpanExport:
    """Sends spans from `start` to `stop`.

    Args:
        url: Redis; the thread opens a connection of its own.
        consumer: Unique to this process.
        environ: Where the endpoint, its headers, timeout, compression and certificate are, by OpenTelemetry's names.
    """

    def __init__(self, url: str, consumer: str, environ: Mapping[str, str] = os.environ) -> None:
        self._redis: Any = open_sync(url, connections=1, timeout_s=_REDIS_TIMEOUT_S)
        self._consumer = consumer
        self._post = _Post(environ)
        check_sampler(environ)
        self._gather_s = _number(environ, [_DELAY_MS], 5_000, (10, 3_600_000)) / 1000
        self._take_over_ms = int(self._post.timeout_s * 1000) + _RECOVERY_MS
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span export", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is there, for at most `timeout_s`, and end."""
        self._stopping.set()
        self._thread.join(timeout_s)
        self._redis.close()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            # A request costs a millisecond of CPU, whatever is in it: spans wait for others, in Redis.
            is_last = self._stopping.wait(self._gather_s)
            try:
                self._send_all(self._take_over)
                self._send_all(self._read)
            except Exception as error:  # whatever it is, the thread must live
                _log.warning("spans.delayed", error=str(error))

    def _send_all(self, take: Callable[[], list[Any]]) -> None:
        entries = take()
        while entries:
            self._send(entries)
            entries = take() if len(entries) >= _BATCH else []

    def _read(self) -> list[Any]:
        try:
            reply = self._redis.xreadgroup(GROUP, self._consumer, {SPANS: ">"}, count=_BATCH)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._create_group()
            return self._read()
        return list(reply[0][1]) if reply else []

    def _create_group(self) -> None:
        try:
            self._redis.xgroup_create(SPANS, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another worker was faster
                raise
        self._redis.pexpire(SPANS, KEEP_MS)

    def _take_over(self) -> list[Any]:
        try:
            reply = self._redis.xautoclaim(SPANS, GROUP, self._consumer, self._take_over_ms, count=_BATCH)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return []
        return list(reply[1])

    def _send(self, entries: list[Any]) -> None:
        # Requests joined byte by byte are one request: protobuf appends repeated fields.
        status = self._post(b"".join(fields[b"spans"] for _, fields in entries if fields))
        if status in _PASSING:
            raise OSError(f"the endpoint answers {status}")
        if status >= HTTPStatus.BAD_REQUEST:
            _log.warning("spans.refused", status=status, entries=len(entries))
        ids = [entry_id for entry_id, _ in entries]
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xack(SPANS, GROUP, *ids)
        pipeline.xdel(SPANS, *ids)
        pipeline.execute()


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
        """Post `body`; answers the status. Raises OSError when there is no answer."""
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
    """Read the first of `names` that is set. Raises SettingsError: it is no number within `bounds`."""
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

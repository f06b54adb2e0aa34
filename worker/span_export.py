"""Send spans from Redis to the OTLP endpoint, in a thread of their own, any worker for all.

A consumer group shares the stream `agent:spans` between the workers; an entry is deleted when the endpoint has taken
it, or refused it for good. What a dead worker had taken, another takes over. So a span is sent at least once: a backend
tells a span that comes twice by its id.
"""

import gzip
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote

from redis.exceptions import RedisError, ResponseError

from shared.logs import get_logger
from shared.redis_clients import open_sync
from shared.tracing import SPANS, endpoint

GROUP = "otlp"
_BATCH = 500
_GATHER_S = 1.0
"""A request costs a millisecond of CPU, whatever is in it: spans wait so long for others."""
_BLOCK_MS = 1_000
_TAKE_OVER_MS = 5_000
_RETRY_WAIT_S = 1.0
_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

_log = get_logger(__name__)


class SpanExport:
    """Sends spans from `start` to `stop`.

    Args:
        url: Redis; the thread opens a connection of its own.
        consumer: Unique to this process.
        environ: Where the endpoint, its headers, timeout, compression and certificate are, by OpenTelemetry's names.
    """

    def __init__(self, url: str, consumer: str, environ: Mapping[str, str] = os.environ) -> None:
        self._redis: Any = open_sync(url, connections=1, timeout_s=3 * _BLOCK_MS / 1000)
        self._consumer = consumer
        self._post = _Post(environ)
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
        taken_over_at = 0.0
        while True:
            is_last = self._stopping.is_set()
            try:
                entries: list[Any] = []
                if time.monotonic() - taken_over_at > _TAKE_OVER_MS / 1000:
                    taken_over_at = time.monotonic()
                    entries = self._take_over()
                entries = entries or self._read(block_ms=None if is_last else _BLOCK_MS)
                if entries and not is_last:
                    self._stopping.wait(_GATHER_S)
                    entries += self._read(block_ms=None)
                if entries:
                    self._send(entries)
                elif is_last:
                    return
            except (RedisError, OSError) as error:
                _log.warning("spans.delayed", error=str(error))
                if self._stopping.wait(_RETRY_WAIT_S):
                    return

    def _read(self, block_ms: int | None) -> list[Any]:
        try:
            reply = self._redis.xreadgroup(GROUP, self._consumer, {SPANS: ">"}, count=_BATCH, block=block_ms)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            with suppress(ResponseError):  # another worker was faster
                self._redis.xgroup_create(SPANS, GROUP, id="0", mkstream=True)
                self._redis.expire(SPANS, 3600)
            return []
        return list(reply[0][1]) if reply else []

    def _take_over(self) -> list[Any]:
        try:
            _, entries, *_ = self._redis.xautoclaim(SPANS, GROUP, self._consumer, _TAKE_OVER_MS, "0-0", count=_BATCH)
        except ResponseError:
            return []
        return list(entries)

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
            raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT: expected an http(s) URL, got: {self._url}")
        self._headers = {unquote(name).strip(): unquote(value).strip() for name, value in pairs}
        self._headers["Content-Type"] = "application/x-protobuf"
        self._timeout_s = float(given("TIMEOUT") or 10)
        self._is_gzip = given("COMPRESSION") == "gzip"
        self._context = ssl.create_default_context(cafile=given("CERTIFICATE") or None)

    def __call__(self, body: bytes) -> int:
        """Post `body`; answers the status. Raises OSError when there is no answer."""
        headers = dict(self._headers)
        if self._is_gzip:
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s, context=self._context) as answer:  # noqa: S310
                return int(answer.status)
        except HTTPError as error:
            error.close()
            return error.code

"""A worker's tiny HTTP server: /metrics, and whatever else is put into its routes, answered by a thread of its own.

It must answer while the event loop is stuck, so it does not run in it. Each
process has a port of its own, the first free one from the given port on.
"""

import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.telemetry.logs import get_logger

PORTS = 256
"""Tried one after another: as many as there may be worker processes."""
_IDLE_S = 10.0

Answer = tuple[int, str, bytes]
"""Status, content type, body."""

_log = get_logger(__name__)


class MetricsServer:
    """Serves `routes`, a dict of path -> callable that answers; routes may be added while it runs.

    Args:
        host: The address to listen on.
        port: The first port to try; 0 lets the system choose.
        processes: Those that share the setting: as many ports from the first on are theirs, and others' a surprise.

    Raises:
        SettingsError: no port is free, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int, processes: int = 1) -> None:
        self.routes: dict[str, Callable[[], Answer]] = {}
        self._server = _bind(host, port, self._answer)
        self.port = int(self._server.server_address[1])
        self._asked = port
        self._is_elsewhere = port > 0 and self.port >= port + processes
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics server", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        _log.info("metrics.served", port=self.port)
        if self._is_elsewhere:
            _log.warning("metrics.port_taken", asked=self._asked, port=self.port)

    def stop(self) -> None:
        """Stop answering, at once."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> Answer:
        route = self.routes.get(path.partition("?")[0])
        if route is None:
            return 404, "text/plain", f"expected one of {', '.join(sorted(self.routes))}\n".encode()
        try:
            return route()
        except Exception:
            _log.exception("metrics.failed", path=path)
            return 500, "text/plain", b"see the worker's log\n"


def _bind(host: str, port: int, answer: Callable[[str], Answer]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = _IDLE_S

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path)
            with suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            """Say nothing: probes come every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_port = False

    for candidate in range(port, port + PORTS if port else 1):
        try:
            return Server((host, candidate), Handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"metrics: cannot listen on {host}:{candidate}: {error.strerror}") from None
    raise SettingsError(f"metrics: expected a free port from {port} to {port + PORTS - 1}, got: none")

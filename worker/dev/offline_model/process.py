"""Start, stop and control the offline model server.

`OfflineLLM` runs the server in a child process that ends with its parent. `OfflineAdmin` sets faults and latency of a
running server and reads its call log. `langgraph-producer dev model` runs it in the foreground and prints its URL.
Importing this module loads none of the server's code.
"""

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_STOP_TIMEOUT_S = 10.0
_ADMIN_TIMEOUT_S = 30.0
_ANNOUNCEMENT = "OPENAI_BASE_URL="

_EXAMPLES = """\
examples:
  langgraph-producer dev model --port 8010 --latency 0.2     each answer after 0.2 s
  langgraph-producer dev model --log calls.jsonl             keep a record of every call
  curl -H 'x-fault: 429; retry_after=2' ...                  one call with a fault
  curl -d '[{"fault": "500", "times": 3}]' 127.0.0.1:8010/admin/faults
  curl '127.0.0.1:8010/admin/calls?since=0'                  the calls so far

exit codes: 0 ended by SIGTERM or SIGINT, 2 wrong usage, 3 the address is taken or the log cannot be written
"""


class OfflineLLMError(RuntimeError):
    """The server did not start, or rejected an admin request; the message has the reason."""


class OfflineAdmin:
    """Client of a running server's admin routes.

    Args:
        url: The server's URL, with or without the trailing /v1.
    """

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """List the calls after number `since`, as `CallRecord`s; raises if some are no longer in memory."""
        found = self._request("GET", f"/admin/calls?since={since}")
        if found["dropped"]:
            raise OfflineLLMError(
                f"{found['dropped']} calls no longer in memory: clear() more often, or read the log file"
            )
        return list(found["calls"])

    def stats(self) -> dict[str, Any]:
        """Return `calls`, `in_flight`, `max_in_flight`, and by model the billed `input_tokens` and `output_tokens`."""
        return dict(self._request("GET", "/admin/stats"))

    def faults(self) -> list[dict[str, Any]]:
        """List the active fault rules, each with its `hits`."""
        return list(self._request("GET", "/admin/faults"))

    def set_faults(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Replace all fault rules; each has the fields of `FaultRule`."""
        self._request("POST", "/admin/faults", [dict(rule) for rule in rules])

    def set_latency(self, latency_s: float) -> None:
        """Set the seconds before each answer."""
        self._request("POST", "/admin/latency", {"latency_s": latency_s})

    def set_headers(self, headers: Mapping[str, str]) -> None:
        """Set the headers that are sent with each answer."""
        self._request("POST", "/admin/headers", dict(headers))

    def clear(self) -> None:
        """Drop calls, counters and fault rules; keep the latency."""
        self._request("DELETE", "/admin/calls")
        self._request("DELETE", "/admin/faults")

    def _request(self, method: str, path: str, value: Any = None) -> Any:
        connection = HTTPConnection(self._address, timeout=_ADMIN_TIMEOUT_S)
        try:
            connection.request(method, path, None if value is None else json.dumps(value))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise OfflineLLMError(answer["error"]["message"])
        return answer


class OfflineLLM:
    """The server in a child process on a free port of 127.0.0.1; a context manager.

    `start` after `kill` restarts it at the same URL, with an empty call log.

    Args:
        latency_s: Seconds before each answer.
        log: A file to which every call is appended as JSON lines. None: memory only.
        keep_prompts: Keep each call's prompt in the log, not only its SHA-256.
        models: The models that exist; others are refused as unknown. Empty: any name is accepted.
    """

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        log: Path | None = None,
        keep_prompts: bool = False,
        models: Sequence[str] = (),
    ) -> None:
        self._options = ["--latency", str(latency_s)]
        if models:
            self._options += ["--models", ",".join(models)]
        if log:
            self._options += ["--log", str(log)]
        if keep_prompts:
            self._options.append("--keep-prompts")
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self.url = ""
        """The URL for OPENAI_BASE_URL, ending in /v1; empty until it has started."""

    @property
    def admin(self) -> OfflineAdmin:
        """The client of its admin routes."""
        return OfflineAdmin(self.url)

    @property
    def anthropic_url(self) -> str:
        """The URL for ANTHROPIC_BASE_URL, whose clients add the /v1."""
        return self.url.removesuffix("/v1")

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process
        return self._process.pid

    def start(self) -> Self:
        """Start it; returns once it accepts connections."""
        self._process = subprocess.Popen(  # noqa: S603
            # -P: modules in the current directory must not shadow ours.
            [
                sys.executable,
                "-P",
                "-m",
                "langgraph_rq.worker.dev.offline_model",
                f"--port={self._port}",
                "--with-parent",
                *self._options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout
        announcement = self._process.stdout.readline().strip()
        if not announcement:
            self.stop()
            raise OfflineLLMError("the offline model server ended at once: see its error above")
        self.url = announcement.removeprefix(_ANNOUNCEMENT)
        self._port = urlsplit(self.url).port or 0
        return self

    def kill(self) -> None:
        """Kill it with SIGKILL, to simulate a crash."""
        if self._process:
            self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Stop it; calls in flight get a few seconds, hanging ones are dropped."""
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server in the foreground until it is interrupted."""
    options = _parser().parse_args(argv)
    # Imported here so that importing OfflineLLM stays cheap.
    from langgraph_rq.worker.dev.offline_model.call_log import CallLog  # noqa: PLC0415
    from langgraph_rq.worker.dev.offline_model.server import OfflineModel, serve  # noqa: PLC0415

    try:
        calls = CallLog(options.log, keep_prompts=options.keep_prompts)
    except OSError as error:
        return _refuse(f"--log: expected a file that can be written, got: {options.log}", error)
    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as error:
        taken = f"--port: expected a port to listen on, got: {options.host}:{options.port}"
        return _refuse(taken, error, "; choose another, or none for a free one")

    def announce() -> None:
        host, port = listener.getsockname()[:2]
        # Anthropic's clients add the /v1 themselves.
        print(f"{_ANNOUNCEMENT}http://{host}:{port}/v1\nANTHROPIC_BASE_URL=http://{host}:{port}", flush=True)  # noqa: T201

    # uvicorn shuts down gracefully, then raises the signal again for the previous handler.
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, _exit)
    serve(OfflineModel(calls, options.latency, options.models), listener, announce, with_parent=options.with_parent)
    return 0


def _refuse(message: str, error: OSError, hint: str = "") -> int:
    # Python's own words name the address again.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # below 0: of a name
    print(f"error: {message} ({reason}){hint}", file=sys.stderr)  # noqa: T201
    return 3


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got: {text}")


def _port(text: str) -> int:
    with suppress(ValueError):
        if 0 <= (port := int(text)) <= 65_535:
            return port
    raise argparse.ArgumentTypeError(f"expected 0 to 65535, got: {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="langgraph-producer dev model",
        description="Serve OpenAI's and Anthropic's APIs without a network; the URLs are printed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=0, help="port to listen on (default: a free one)")
    parser.add_argument(
        "--latency", type=_seconds, default=0.0, metavar="S", help="seconds before each answer (default: 0)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="append every call to FILE as JSON lines")
    parser.add_argument("--keep-prompts", action="store_true", help="record prompts, not only their SHA-256")
    parser.add_argument(
        "--models",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=[],
        metavar="A,B",
        help="the models that exist; others are refused (default: any name is accepted)",
    )
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    return parser

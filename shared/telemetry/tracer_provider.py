"""OpenTelemetry's SDK, set up by OpenTelemetry's own variables: exporters, sampler, ids, resource, batches.

Off unless OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_ENDPOINT) is set. Two defaults differ from
the SDK's: OTLP goes over HTTP unless OTEL_EXPORTER_OTLP_PROTOCOL asks for gRPC, and a batch is exported after 1 s
instead of 5, because a process that is killed loses what it has not exported.

A wrong variable ends the start. The SDK would log a warning and continue, without the spans that were asked for.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from opentelemetry import trace

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.telemetry.tracing import SCOPE

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
_QUEUE = "OTEL_BSP_MAX_QUEUE_SIZE"
_DELAY_MS = 1_000
_QUEUE_SPANS = 16_384
"""A second's worth of a busy process; the SDK's 2,048 would drop spans while one request is under way."""
_NUMBERS = {
    _DELAY: (1, 3_600_000),
    _QUEUE: (1, 10_000_000),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": (1, 10_000_000),
    "OTEL_EXPORTER_OTLP_TIMEOUT": (0.001, 3_600),
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": (0.001, 3_600),
}
"""Variable -> the least and the greatest number that it may be."""
_FILES = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}{file}"
    for signal in ("", "TRACES_")
    for file in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
)
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""Protocol -> the name of its exporter."""
_EXTRAS = {"otlp_proto_http": "otel", "otlp_proto_grpc": "otel-grpc"}
_END_S = 5.0


def is_asked_for(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment asks for spans to be exported."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return bool(exporter or endpoint(environ))


def endpoint(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where OTLP goes; None: no variable says it."""
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None


@contextmanager
def exported_spans(*, is_required: bool = True) -> Iterator[None]:
    """Export the spans of this process while the block runs, and the rest of them at the end, for at most 5 s.

    Enter it after the process was forked, because the SDK's threads and gRPC's channels do not survive a fork, and
    after the user's code was loaded: a TracerProvider that it has set is used, and not replaced.

    Args:
        is_required: Whether a missing package is an error; else there are no spans.

    Raises:
        SettingsError: a variable is wrong, or a package is missing.
    """
    if is_asked_for() and not is_set():
        try:
            trace.set_tracer_provider(_new_provider())
        except _MissingPackageError:
            if is_required:
                raise
    try:
        yield
    finally:
        flush(_END_S)


def is_set() -> bool:
    """Return whether this process has a TracerProvider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def flush(timeout_s: float) -> None:
    """Export the spans that have ended, for at most `timeout_s`: a collector that is away must not delay an exit."""
    flushing: Callable[[], object] | None = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flushing:
        thread = threading.Thread(target=flushing, name="span flush", daemon=True)
        thread.start()
        thread.join(timeout_s)


class _MissingPackageError(SettingsError):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"tracing: expected {package} to be installed, got: no such package. "
            f"Install langgraph-rq[{extra}], or set OTEL_SDK_DISABLED=true"
        )


def _new_provider() -> "TracerProvider":
    try:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - an extra, and 100 ms of imports
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _MissingPackageError("opentelemetry-sdk", "otel") from error
    _check(os.environ)
    # Without the SDK's own exit handler, which waits for a collector for up to 30 s.
    provider = TracerProvider(
        sampler=_sampler(), resource=_resource(), id_generator=_id_generator(), shutdown_on_exit=False
    )
    delay_ms = None if _DELAY in os.environ else _DELAY_MS
    queue = None if _QUEUE in os.environ else _QUEUE_SPANS
    for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        try:
            exporter = _load("traces_exporter", _exporter_name(name.strip()), "OTEL_TRACES_EXPORTER")()
            provider.add_span_processor(BatchSpanProcessor(exporter, queue, delay_ms))
        except ValueError as error:
            raise SettingsError(f"OTEL_*: {error}") from error
    return provider


def _exporter_name(name: str) -> str:
    if name != "otlp":
        return name
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if given := os.environ.get(variable):
            if given not in _OTLP:
                raise SettingsError(f"{variable}: expected one of {', '.join(_OTLP)}, got: {given}")
            return _OTLP[given]
    return _OTLP["http/protobuf"]


def _sampler() -> Any:
    """Return the sampler that is asked for; None: the SDK's default, every trace that its parent does not forbid."""
    name = os.environ.get("OTEL_TRACES_SAMPLER")
    if not name:
        return None
    sampler, argument = _load("traces_sampler", name, "OTEL_TRACES_SAMPLER"), os.environ.get("OTEL_TRACES_SAMPLER_ARG")
    if name.endswith("traceidratio"):
        return sampler(_number("OTEL_TRACES_SAMPLER_ARG", argument or "1", (0, 1)))
    return sampler(argument)


def _id_generator() -> Any:
    name = os.environ.get("OTEL_PYTHON_ID_GENERATOR")
    return _load("id_generator", name, "OTEL_PYTHON_ID_GENERATOR")() if name else None


def _resource() -> "Resource":
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    # Without a name of the service, the SDK makes one of the program's.
    given = Resource.create()
    named = {"service.name": SCOPE} if str(given.attributes["service.name"]).startswith("unknown_service") else {}
    ours = Resource({"host.name": socket.gethostname(), "service.instance.id": str(uuid4())})
    merged = ours.merge(given).merge(Resource(named))
    number = hash(merged)

    class HashedOnce(Resource):
        """The exporter hashes the resource for each span, which the SDK does by writing it as JSON (5 us)."""

        def __hash__(self) -> int:
            return number

    return HashedOnce(merged.attributes, merged.schema_url)


def _load(group: str, name: str, variable: str) -> Any:
    """Load what a package has registered under OpenTelemetry's name of it."""
    found = entry_points(group=f"opentelemetry_{group}")
    with suppress(ModuleNotFoundError):  # registered, and half removed
        if name in found.names:
            return found[name].load()
    if name in _EXTRAS:
        raise _MissingPackageError(f"opentelemetry-exporter-{name.replace('_', '-')}", _EXTRAS[name])
    raise SettingsError(f"{variable}: expected one of {', '.join(sorted(found.names))}, got: {name}")


def _check(environ: Mapping[str, str]) -> None:
    """Raise SettingsError for what the SDK would ignore with a warning, or fail at with each batch."""
    for name, bounds in _NUMBERS.items():
        if given := environ.get(name):
            _number(name, given, bounds)
    for name in _FILES:
        if (given := environ.get(name)) and not Path(given).is_file():
            raise SettingsError(f"{name}: expected a file, got: {given}")
    to = endpoint(environ)
    if to and _exporter_name("otlp") == _OTLP["http/protobuf"] and not to.startswith(("http://", "https://")):
        raise SettingsError(f"OTEL_EXPORTER_OTLP_ENDPOINT: expected an http(s) URL, got: {to}")


def _number(name: str, given: str, bounds: tuple[float, float]) -> float:
    least, most = bounds
    try:
        number = float(given)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(f"{name}: expected a number from {least} to {most:,}, got: {given}")
    return number

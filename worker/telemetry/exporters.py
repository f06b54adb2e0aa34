"""Start and stop the telemetry of a worker process: log queue, metrics port, alert delivery."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from langgraph_rq.shared.settings import BudgetSettings, TelemetrySettings, load
from langgraph_rq.shared.telemetry import logs
from langgraph_rq.worker.fleet.graph_worker import GraphWorker
from langgraph_rq.worker.telemetry.alerts import AlertWatch
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from langgraph_rq.worker.telemetry.metrics_server import MetricsServer
from langgraph_rq.worker.telemetry.webhook import Webhook


@contextmanager
def telemetry(worker: GraphWorker, redis_url: str, processes: int = 1) -> Iterator[MetricsServer | None]:
    """Export telemetry while the block runs, and the rest of it at the end; `processes` share the metrics port.

    Yields:
        The metrics server, to add routes to; None without a port.

    Raises:
        SettingsError: the port is taken, or the webhook's address is not allowed.
    """
    settings = load(TelemetrySettings)
    with ExitStack() as stack:
        metrics = WorkerMetrics(lambda: worker.in_flight) if settings.metrics_port is not None else None
        stack.enter_context(metrics.listen() if metrics else logs.queued())
        alerts = AlertWatch(redis_url, worker.name, _webhook(settings), load(BudgetSettings).utc_offset_s)
        alerts.start()
        stack.callback(alerts.stop)
        server = None
        if metrics and settings.metrics_port is not None:
            server = MetricsServer(settings.metrics_host, settings.metrics_port, processes)
            server.routes["/metrics"] = metrics.page
            server.start()
            stack.callback(server.stop)
        yield server


def _webhook(settings: TelemetrySettings) -> Webhook | None:
    if settings.alert_webhook_url is None:
        return None
    key = settings.alert_webhook_key
    return Webhook(
        settings.alert_webhook_url.get_secret_value(),
        settings.alert_webhook_hosts,
        key.get_secret_value() if key else None,
    )

"""Monitoring: are failures noticed, and can they be explained?"""

import json
import subprocess
import sys
from importlib.util import find_spec

from langgraph_rq.producer.doctor.finding import Check, Finding, failed, passed, warned
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.settings import WorkerSettings, load
from langgraph_rq.shared.telemetry.tracer_provider import endpoint, is_asked_for

_LOG_A_LINE = (
    "from langgraph_rq.shared.telemetry import logs; logs.configure(); logs.get_logger('doctor').info('log.checked')"
)
_TELL_PROMETHEUS = "give --prometheus URL, so that it is asked"


def logs_are_structured(_system: System) -> Finding:
    """A log line must be readable by machines, and hold no prompt."""
    if find_spec("re2") is None:
        return warned("not checked: neither worker nor gateway is installed here", "run the doctor as the gateway runs")
    # In a process of its own: setting up the logs is for the whole process.
    command = [sys.executable, "-P", "-c", _LOG_A_LINE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        json.loads(done.stderr)
    except ValueError:
        return failed(f"a log line is not JSON: {done.stderr.strip()[:100]}", "look for what else writes to stderr")
    if load(WorkerSettings).log_level == "debug":
        return warned("the log level is debug", "set LGRQ_LOG_LEVEL=info")
    return passed("one JSON object per line")


def traces_are_exported(system: System) -> Finding:
    """A slow task is explained by its trace."""
    if not is_asked_for(system.environ):
        return warned("no traces are exported", "set OTEL_EXPORTER_OTLP_ENDPOINT to your collector")
    to = endpoint(system.environ) or system.environ["OTEL_TRACES_EXPORTER"]
    return passed(f"traces go to {to}")


def metrics_are_scraped(system: System) -> Finding:
    """Prometheus must reach the gateway and every worker."""
    if system.urls.prometheus is None:
        return warned("not checked", _TELL_PROMETHEUS)
    down = [target["scrapeUrl"] for target in system.targets if target["health"] != "up"]
    jobs = {target["labels"]["job"] for target in system.targets}
    if down:
        return failed(f"Prometheus cannot scrape {', '.join(down)}", "look at its page Status > Targets")
    if not {"gateway", "worker"} <= jobs:
        return failed(
            f"Prometheus scrapes {', '.join(sorted(jobs)) or 'nothing'}: expected gateway and worker",
            "use deploy/prometheus/prometheus.yml, and set LGRQ_METRICS_PORT on the workers",
        )
    return passed(f"{len(system.targets)} targets up")


def alerts_are_loaded(system: System) -> Finding:
    """Prometheus must have loaded our rules, and needs an Alertmanager to send the alerts."""
    if system.urls.prometheus is None:
        return warned("not checked", _TELL_PROMETHEUS)
    ours = [rule["name"] for rule in system.rules if rule["type"] == "alerting" and rule["name"].startswith("Agent")]
    if not ours:
        return failed("none of our alerts is loaded", "add deploy/prometheus/alerts.yml to rule_files")
    if not system.alertmanagers:
        return failed(
            f"{len(ours)} alerts loaded, and no Alertmanager to send them to",
            "name one below alerting.alertmanagers in Prometheus' configuration",
        )
    return passed(f"{len(ours)} alerts loaded, sent to {len(system.alertmanagers)} Alertmanagers")


CHECKS: dict[str, Check] = {
    "structured logs": logs_are_structured,
    "traces": traces_are_exported,
    "metrics": metrics_are_scraped,
    "alerts": alerts_are_loaded,
}

"""Every log event of the code is in the table of docs/observability.md, and what is counted is one of them."""

import ast
import re

from langgraph_rq.shared.telemetry import logs
from langgraph_rq.worker.telemetry.metrics import WorkerMetrics
from tests.installation import ROOT

EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def events_in_source() -> set[str]:
    """The first argument of every call of a logger, and the tables of names that such calls use."""
    found = set()
    for path in (path for folder in ("producer", "worker", "shared") for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _is_log_call(node):
                found |= {one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)}
            names = {getattr(target, "id", "") for target in node.targets} if isinstance(node, ast.Assign) else set()
            if isinstance(node, ast.Assign) and names & {"_TRANSITIONS", "event"}:
                found |= {one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)}
    return {event for event in found if isinstance(event, str) and EVENT.fullmatch(event)}


def _is_log_call(node: ast.Call) -> bool:
    methods = {"debug", "info", "warning", "error", "exception"}
    if isinstance(node.func, ast.Name) and node.func.id == "Event":
        return bool(node.args)
    is_method = isinstance(node.func, ast.Attribute) and node.func.attr in methods
    if is_method and isinstance(node.func.value, ast.Name):
        return node.func.value.id == "_log" and bool(node.args)
    return isinstance(node.func, ast.Name) and node.func.id == "log" and bool(node.args)


def events_in_docs() -> set[str]:
    text = (ROOT / "docs/observability.md").read_text()
    table = text.partition("## Log events")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)`", table, re.MULTILINE))


def test_every_event_is_in_the_documentation_and_no_other():
    assert events_in_source() == events_in_docs()


def test_every_event_that_metrics_count_is_logged_somewhere(monkeypatch):
    counted = []
    monkeypatch.setattr(logs, "queued", counted.extend)
    WorkerMetrics(lambda: 0).listen()
    assert counted
    assert set(counted) - events_in_source() == set()

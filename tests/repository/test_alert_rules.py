"""The shipped alerts and dashboards: checked by promtool, and made of metrics that exist."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from langgraph_rq.shared.telemetry.metrics import FLEET, GATEWAY, WORKER
from tests.installation import ROOT

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yml"
BOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
KNOWN = {metric.name for metric in (*WORKER, *FLEET, *GATEWAY)}
KNOWN |= {
    f"{metric.name}{part}" for metric in WORKER if metric.kind == "histogram" for part in ("_bucket", "_sum", "_count")
}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bagent_\w+", expression))


@needs_promtool
def test_promtool_accepts_the_alerts():
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(ALERTS))


@needs_promtool
def test_promtool_accepts_the_configuration():
    promtool("check", "config", str(DEPLOY / "prometheus/prometheus.yml"))


@needs_promtool
def test_each_alert_fires_in_a_scripted_fault_and_is_silent_before_it():
    promtool("test", "rules", str(DEPLOY / "prometheus/alerts_test.yml"))


def test_scripted_faults_leave_no_alert_out():
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fired == silent == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_says_how_bad_it_is_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "action"}
    assert metrics_in(rule["expr"]) <= KNOWN


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_dashboard_shows_metrics_that_exist(board):
    panels = json.loads(board.read_text())["panels"]
    shown = set().union(*(metrics_in(target["expr"]) for panel in panels for target in panel.get("targets", ())))
    assert shown
    assert shown <= KNOWN


def test_dashboards_show_every_metric_but_details():
    text = "".join(board.read_text() for board in BOARDS)
    names = {metric.name for metric in (*WORKER, *FLEET, *GATEWAY)}
    hidden = {name for name in names if name not in text}
    assert hidden == {
        "agent_alert_posts_total",
        "agent_log_lines_dropped_total",
        "agent_breaker_transitions_total",
        "agent_answers_replayed_total",
        "agent_once_calls_total",
        "agent_paid_again_total",
        "agent_redis_up",
        "agent_refused_keys_total",
        "agent_tasks_open",
    }

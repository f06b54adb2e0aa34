"""A LangGraph project with packages `shared`, `worker` and `producer`, served by the installed wheel."""

import pytest

from langgraph_rq import Client, State
from tests.installation import ROOT, start_worker

PROJECT = ROOT / "tests/projects/own_names"


@pytest.mark.parametrize("start", ["langgraph-worker", "python -m langgraph_rq.worker"])
def test_project_with_packages_of_our_names_runs_its_own(start, installed_wheel, redis_url, tmp_path):
    program, *arguments = start.split()
    command = [installed_wheel.bin / program, *arguments]
    environment = {"REDIS_URL": redis_url, "OPENAI_API_KEY": "unused"}
    with start_worker(tmp_path, environment, command=command, cwd=PROJECT) as worker, Client(redis_url) as client:
        worker.wait_until_ready()
        task = client.submit({"items": ["tea", "cake"]}, graph="report")
        result = client.wait(task.task_id, timeout_s=30)
    assert result.status is State.SUCCESS, result.error
    assert result.result == {"items": ["tea", "cake"], "total": 670, "text": "tea 250; cake 420; total 670"}

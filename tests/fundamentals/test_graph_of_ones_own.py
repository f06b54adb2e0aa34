"""The tutorial, part 2: an ordinary LangGraph project, served as it stands."""

import subprocess
import sys

from langgraph_rq import Client, State
from tests.installation import clean_environment


def test_a_graph_of_ones_own_is_served_under_the_name_in_its_langgraph_json(support_desk):
    with Client(support_desk.redis_url) as client:
        task = client.submit({"customer": "Ada", "problem": "I forgot my password"}, graph="support desk")
        result = client.wait(task.task_id, timeout_s=30)

    assert result.status is State.SUCCESS
    assert "Forgot password" in result.result["article"]
    assert result.result["reply"].endswith("Your support desk (Monday to Friday, 9 to 17 h)")
    assert result.metadata.model == "gpt-4o-mini"


def test_the_same_from_a_shell(support_desk):
    ticket = '{"customer": "Ada", "problem": "I need an invoice"}'
    command = [
        sys.executable,
        "-m",
        "langgraph_rq.producer",
        "submit",
        "--graph",
        "support desk",
        "--input",
        ticket,
        "--wait",
    ]
    environment = clean_environment(support_desk.environment)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Invoices are under Account" in done.stdout

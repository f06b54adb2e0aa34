"""The first start of a worker: without its extra, without a langgraph.json, and beside a taken port."""

import socket
import subprocess
import sys

import pytest

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.installation import clean_environment
from tests.newcomers.programs import work

WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None  # to import None is an error
from langgraph_rq.{module} import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def redis_url():
    with EmbeddedRedis() as redis:
        yield redis.url


@pytest.mark.parametrize(
    ("program", "command", "module", "extra"),
    [
        ("worker.command", "langgraph-worker", "uvloop", "worker"),
        ("producer.cli.main", "dev model", "uvicorn", "worker"),
        ("producer.cli.main", "dashboard", "waitress", "dashboard"),
    ],
)
def test_command_without_its_libraries_says_which_extra_it_needs(program, command, module, extra):
    arguments = [] if command == "langgraph-worker" else command.split()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(module=program), module, *arguments],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    expected = f"expected the extra `{extra}`, got: no module {module}; pip install 'langgraph-rq[{extra}]'"
    assert done.stderr == f"error: {command}: {expected}\n"


@pytest.fixture(scope="module")
def first_start(redis_url, tmp_path_factory):
    """A worker with nothing to do, in an empty folder, on a machine where the port for its metrics is taken."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        folder = tmp_path_factory.mktemp("empty")
        done = work("--burst", cwd=folder, REDIS_URL=redis_url, LGRQ_METRICS_PORT=str(port), OPENAI_API_KEY="offline")
    assert done.code == 0, done
    return done, port


def test_worker_without_a_langgraph_json_says_that_it_serves_the_assistant(first_start):
    done, _ = first_start
    assert [(one["level"], one["missing"]) for one in done.events if one["event"] == "assistant.served"] == [
        ("info", "langgraph.json")
    ]


def test_worker_on_a_taken_metrics_port_warns_that_it_took_another(first_start):
    done, taken = first_start
    (warning,) = (event for event in done.events if event["event"] == "metrics.port_taken")
    assert (warning["level"], warning["asked"]) == ("warning", taken)
    assert warning["port"] > taken

"""The first start of a worker: without its extra, and in a folder without a langgraph.json."""

import subprocess
import sys

import pytest

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.installation import clean_environment
from tests.newcomers.programs import work

WORKER_WITHOUT_LANGGRAPH = """
import sys
sys.modules["langgraph"] = None  # to import None is an error
from langgraph_rq.worker.__main__ import main
main([])
"""


@pytest.fixture(scope="module")
def redis_url():
    with EmbeddedRedis() as redis:
        yield redis.url


def test_worker_without_its_libraries_says_which_extra_it_needs():
    done = subprocess.run(
        [sys.executable, "-c", WORKER_WITHOUT_LANGGRAPH],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: langgraph-worker: expected the extra `worker`, got: no module langgraph")
    assert done.stderr.endswith("; pip install 'langgraph-rq[worker]'\n")
    assert done.stderr.count("\n") == 1


def test_worker_without_a_langgraph_json_says_that_it_serves_the_assistant(redis_url, tmp_path):
    done = work("--burst", cwd=tmp_path, REDIS_URL=redis_url, OPENAI_API_KEY="offline")
    assert done.code == 0, done
    assert [(one["level"], one["missing"]) for one in done.events if one["event"] == "assistant.served"] == [
        ("info", "langgraph.json")
    ]

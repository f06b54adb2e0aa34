import pytest
from click.testing import CliRunner

from langgraph_rq.producer.cli.main import main


@pytest.fixture
def run(redis_url, monkeypatch):
    """Run `langgraph-producer` in this process, against the Redis of the test."""
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*arguments: str):
        return CliRunner().invoke(main, arguments)

    return run

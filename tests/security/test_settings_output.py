"""`langgraph-worker --settings` as a process: no password of any URL is in what it prints."""

import re
import subprocess
import sys

import pytest

from tests.installation import clean_environment

URLS = {
    "a user's": ("REDIS_URL", "rediss://worker:hunter2-a@redis.example:6380/0", "rediss://***@redis.example:6380/0"),
    "an option's": (
        "REDIS_URL",
        "rediss://redis.example/0?password=hunter2-b&ssl_ca_certs=/ca.crt",
        "rediss://redis.example/0?password=***&ssl_ca_certs=/ca.crt",
    ),
    "an option's, with its name encoded": (
        "LGRQ_CHECKPOINT_REDIS_URL",
        "rediss://redis.example/0?p%61ssword=hunter2-c",
        "rediss://redis.example/0?p%61ssword=***",
    ),
    "one with signs": ("REDIS_URL", "rediss://:hunter2@#/-d@redis.example/0", "rediss://***@redis.example/0"),
    "a sentinel's": (
        "REDIS_URL",
        "rediss+sentinel://w:hunter2-e@one,two/agents?sentinel_password=hunter2-f",
        "rediss+sentinel://***@one,two/agents?sentinel_password=***",
    ),
    "a model API's": (
        "OPENAI_BASE_URL",
        "https://ann:hunter2-g@models.example/v1?api_key=hunter2-h&team=a",
        "https://***@models.example/v1?api_key=***&team=a",
    ),
    "a model API's without a scheme": ("OPENAI_BASE_URL", "ann:hunter2-i@models.example/v1", "***@models.example/v1"),
    "a webhook's path": (
        "LGRQ_ALERT_WEBHOOK_URL",
        "https://hooks.example/services/hunter2-j?sig=hunter2-k",
        "https://hooks.example/***",
    ),
    "one in a list": (
        "LGRQ_ALERT_WEBHOOK_HOSTS",
        '["https://ann:hunter2-l@one.example", "two.example"]',
        "https://***@one.example",
    ),
}


def together() -> list[dict[str, str]]:
    """Put URLs of different settings into one environment: a start of a worker takes a second."""
    environments: list[dict[str, str]] = []
    for name, url, _ in URLS.values():
        for environment in environments:
            if environment.setdefault(name, url) == url:
                break
        else:
            environments.append({name: url})
    return environments


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the starts print, by the settings that each got."""
    folder = tmp_path_factory.mktemp("settings")
    said = []
    for environment in together():
        done = subprocess.run(
            [sys.executable, "-m", "langgraph_rq.worker", "--settings"],
            cwd=folder,
            env=clean_environment({**environment, "COLUMNS": "300"}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append((environment, done.stdout + done.stderr))
    return said


@pytest.mark.parametrize(("name", "url", "shown"), URLS.values(), ids=URLS)
def test_no_password_of_a_url_is_printed(name, url, shown, printed):
    (said,) = [said for environment, said in printed if environment.get(name) == url]
    assert "hunter2" not in said
    assert shown in re.sub(r"\s+", " ", said)


def test_no_password_of_a_url_that_is_refused_is_printed(tmp_path):
    url = "rediss://redis.example/0?PASSWORD=hunter2-m"  # no option of redis-py
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_rq.worker", "--settings"],
        cwd=tmp_path,
        env=clean_environment({"REDIS_URL": url}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "got: rediss://redis.example/0?PASSWORD=***" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr

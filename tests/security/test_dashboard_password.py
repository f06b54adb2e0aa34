"""Wrong passwords of the dashboard: few can be tried, and they cost it no thread beyond two."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from tests.dashboards import dashboard_app

PASSWORD = "correct horse"
PATH = "/0/data/queues.json"


@pytest.fixture
def ask(redis_url):
    """Ask for a page with a password, on a thread of its own as the server does; answers status and seconds."""
    with Redis.from_url(redis_url) as client, dashboard_app(client, "redis", PASSWORD) as app:

        def ask(password: str) -> tuple[int, float]:
            begun_s = time.monotonic()
            status = app.test_client().get(PATH, auth=("admin", password)).status_code
            return status, time.monotonic() - begun_s

        assert ask(PASSWORD)[0] == 200  # what Flask does at its first request is not measured
        yield ask


def test_wrong_password_is_answered_slowly_and_logged(ask, caplog):
    with caplog.at_level(logging.WARNING):
        status, seconds = ask("wrong")
    assert status == 401
    assert seconds >= 0.5
    assert "password.refused" in caplog.text


def test_many_at_once_find_nothing_and_leave_the_server_its_threads(ask):
    guesses = [f"guess {n}" for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, [*guesses, PASSWORD]))
    assert [status for status, _ in found].count(401) == 2
    assert [status for status, _ in found].count(429) == 39, "the right one is not looked at either, meanwhile"
    assert sorted(seconds for _, seconds in found)[-3] < 0.5


def test_right_password_is_let_in_when_the_wrong_ones_have_waited(ask):
    ask("wrong")
    status, seconds = ask(PASSWORD)
    assert status == 200
    assert seconds < 0.5

"""Answers that no cache keeps, hosts that are none, wrong keys, and who may read the metrics."""

import asyncio
from time import monotonic

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.gateways import gateway

KEY, LINE = make_key("acme")
WRONG = {"Authorization": "Bearer lgrq_wrong"}


@pytest.fixture
async def http(redis_url):
    async with gateway(redis_url, keys=LINE) as http:
        yield http


@pytest.mark.parametrize(
    "path", ["/tasks", "/usage", "/tasks/nobody", "/nowhere", "/health", "/openapi.json", "/metrics"]
)
async def test_answers_are_kept_by_no_cache(http, path):
    for headers in ({}, {"X-API-Key": KEY}):
        answer = await http.get(path, headers=headers)
        assert (answer.headers["Cache-Control"], answer.headers["X-Content-Type-Options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("settings", [{}, {"keys": LINE}])
@pytest.mark.parametrize("host", ["[", "[::1", "a]b", "[x]"])
@pytest.mark.parametrize("path", ["/tasks", "/tasks/", "/"])
async def test_host_that_is_none_is_a_421(redis_url, settings, host, path):
    async with gateway(redis_url, **settings) as http:
        answer = await http.get(path, headers={"Host": host, "X-API-Key": KEY})
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (421, "foreign_host")


async def test_wrong_key_is_answered_slowly_logged_and_counted(http, caplog):
    started_at = monotonic()
    answer = await http.get("/tasks", headers=WRONG)
    assert answer.status_code == 401
    assert monotonic() - started_at > 0.4
    assert "key.refused" in caplog.text
    assert "lgrq_wrong" not in caplog.text
    assert "agent_refused_keys_total 1.0" in (await http.get("/metrics")).text


async def test_many_wrong_keys_delay_no_right_one(http):
    started_at = monotonic()
    wrong = [asyncio.create_task(http.get("/tasks", headers=WRONG)) for _ in range(80)]
    await asyncio.sleep(0)
    right = await http.get("/tasks", headers={"X-API-Key": KEY})
    answers = [answer.status_code for answer in await asyncio.gather(*wrong)]
    assert right.status_code == 200
    assert sorted(set(answers)) == [401, 429]
    assert answers.count(401) == 64
    assert monotonic() - started_at < 5


async def test_request_without_a_key_is_not_counted_as_a_wrong_one(http):
    assert (await http.get("/tasks")).status_code == 401
    assert "agent_refused_keys_total 0.0" in (await http.get("/metrics")).text


async def test_metrics_are_behind_their_own_key(redis_url):
    async with gateway(redis_url, keys=LINE, metrics_key="scraper") as http:
        for headers in ({}, WRONG, {"X-API-Key": KEY}):
            assert (await http.get("/metrics", headers=headers)).status_code == 401
        answer = await http.get("/metrics", headers={"Authorization": "Bearer scraper"})
        assert answer.status_code == 200
        assert "agent_redis_up 1.0" in answer.text
        assert (await http.get("/tasks", headers={"Authorization": "Bearer scraper"})).status_code == 401

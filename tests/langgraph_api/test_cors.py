"""Web pages of other origins call the gateway only where its operator named them."""

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.shared.errors import SettingsError
from tests.gateways import gateway

PAGE = "https://chat.example.org"
PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


async def test_no_page_may_call_by_default(redis_url):
    async with gateway(redis_url) as http:
        answer = await http.options("/tasks", headers=PREFLIGHT)
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in (await http.get("/ok", headers={"Origin": PAGE})).headers


async def test_named_page_may_call_and_read_what_clients_need_without_a_key_of_its_preflight(redis_url, monkeypatch):
    monkeypatch.setenv("LGRQ_CORS_ORIGINS", f"http://localhost:3000, {PAGE}")
    async with gateway(redis_url, keys=make_key("acme")[1]) as http:
        preflight = await http.options("/tasks", headers=PREFLIGHT)
        refused = await http.post("/assistants/search", json={}, headers={"Origin": PAGE})
        other = await http.options("/tasks", headers={**PREFLIGHT, "Origin": "https://elsewhere.example.org"})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, PAGE)
    assert preflight.headers["access-control-allow-headers"] == "x-api-key"
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE, "the page can read why"
    assert "Content-Location" in refused.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("origins", "has_keys", "expected"),
    [
        ("*", False, "without API keys any web page"),
        ("chat.example.org", False, "expected origins such as https://chat.example.org"),
        (f"{PAGE}/path", True, "no path"),
    ],
)
async def test_origins_that_cannot_be_meant_are_refused_at_the_start(
    redis_url, monkeypatch, origins, has_keys, expected
):
    monkeypatch.setenv("LGRQ_CORS_ORIGINS", origins)
    with pytest.raises(SettingsError, match=expected):
        async with gateway(redis_url, **({"keys": make_key("acme")[1]} if has_keys else {})):
            pass


async def test_every_page_may_call_where_each_caller_has_a_key(redis_url, monkeypatch):
    monkeypatch.setenv("LGRQ_CORS_ORIGINS", "*")
    async with gateway(redis_url, keys=make_key("acme")[1]) as http:
        assert (await http.get("/ok", headers={"Origin": PAGE})).headers["access-control-allow-origin"] == "*"

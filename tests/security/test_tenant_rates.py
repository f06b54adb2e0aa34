"""Rates and priorities belong to the key's tenant: a caller who invents users gets no more of either."""

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import Keyring, make_key
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import TenantSettings
from tests.gateways import gateway

ACME, ACME_LINE = make_key("acme")
OTHER, OTHER_LINE = make_key("other")
OWN, OWN_LINE = make_key("default")


def keys(acme_fields: str = "") -> str:
    return f"{ACME_LINE} {acme_fields}\n{OTHER_LINE}\n{OWN_LINE}\n"


async def post(http, key, path="/tasks", **body):
    return await http.post(path, json={"input": {}, **body}, headers={"Authorization": f"Bearer {key}"})


async def test_invented_users_share_the_rate_of_their_tenant(redis_url):
    async with gateway(redis_url, keys=keys("rate=20/minute"), rate="600/minute") as http:
        answers = [await post(http, ACME, user_id=f"invented{i}") for i in range(30)]
        victim = await post(http, OTHER, user_id="ann")
    assert [answer.status_code for answer in answers] == [202] * 20 + [429] * 10
    assert answers[-1].json()["type"].endswith("rate_limited")
    assert "more than 20/minute of tenant acme: try again in" in answers[-1].json()["detail"]
    # A window whose every place was taken within itself leaves the sliding one 1/20 of a window after its end.
    assert 0 < int(answers[-1].headers["retry-after"]) <= 63
    assert victim.status_code == 202


async def test_user_is_held_to_the_rate_of_one_user_within_the_tenants(redis_url):
    async with gateway(redis_url, keys=keys("rate=20/minute"), rate="2/minute") as http:
        statuses = [(await post(http, ACME, user_id="ann")).status_code for _ in range(3)]
        assert (await post(http, ACME, user_id="bob")).status_code == 202
    assert statuses == [202, 202, 429]


async def test_tenants_are_held_to_the_rate_of_the_settings_and_the_operators_own_is_not(redis_url, monkeypatch):
    monkeypatch.setenv("LGRQ_TENANT_RATE", "2/minute")
    async with gateway(redis_url, keys=keys("rate=none")) as http:
        statuses = {
            key: [(await post(http, key, user_id=f"invented{i}")).status_code for i in range(3)]
            for key in (ACME, OTHER, OWN)
        }
    assert statuses == {ACME: [202] * 3, OTHER: [202, 202, 429], OWN: [202] * 3}


async def test_rate_of_a_tenant_is_forgotten(redis_url, redis_client):
    async with gateway(redis_url, keys=keys("rate=20/minute")) as http:
        await post(http, ACME)
    assert 0 < redis_client.ttl("agent:rate:acme") <= 120


@pytest.mark.parametrize("path", ["/tasks"])
async def test_key_may_use_its_priorities_only(redis_url, redis_client, path):
    async with gateway(redis_url, keys=keys()) as http:
        refused = await post(http, ACME, path, priority="high")
        allowed = [(await post(http, ACME, path, priority=name)).status_code for name in ("default", "low")]
        own = await post(http, OWN, path, priority="high")
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:langgraph-rq:problem:priority_refused")
    assert "priority: expected default, low, which this key may use, got: high" in refused.json()["detail"]
    assert allowed == [202, 202]
    assert own.status_code == 202
    assert redis_client.llen("rq:queue:agent_tasks_high") == 1


async def test_key_may_be_given_the_high_priority(redis_url):
    async with gateway(redis_url, keys=keys("priorities=high,default")) as http:
        statuses = [(await post(http, ACME, priority=name)).status_code for name in ("high", "default", "low")]
    assert statuses == [202, 202, 403]


async def test_open_tasks_and_bytes_of_a_key_are_those_of_its_line(redis_url):
    async with gateway(redis_url, keys=keys("open_tasks=2")) as http:
        full = [await post(http, ACME, user_id=f"invented{i}") for i in range(3)][-1]
        victim = await post(http, OTHER)
    assert (full.status_code, full.json()["type"]) == (429, "urn:langgraph-rq:problem:tenant_full")
    assert full.headers["retry-after"] == "5"
    assert victim.status_code == 202
    async with gateway(redis_url, keys=keys("open_tasks=none held_bytes=10000")) as http:
        assert (await post(http, ACME, input={"text": "x" * 10_000})).json()["type"].endswith("tenant_full")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("rate=often", 'rate: expected a rate such as "600/minute", got: often'),
        ("open_tasks=-1", "open_tasks: expected a number above 0, or none, got: -1"),
        ("held_bytes=", "held_bytes: expected a number above 0, or none, got: "),
        ("priorities=urgent", "priorities: expected some of high, default, low, got: urgent"),
        ("colour=red", "expected NAME=VALUE with a name of rate, open_tasks, held_bytes, priorities, got: colour=red"),
    ],
)
def test_field_that_is_none_is_named_with_its_line(fields, message):
    with pytest.raises(SettingsError) as raised:
        Keyring.parse(f"{OTHER_LINE}\n{ACME_LINE} {fields}", TenantSettings())
    assert str(raised.value) == f"LGRQ_GATEWAY_KEYS, line 2: {message}"

"""Keys and tenants: what is not yours does not exist."""

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import Keyring, make_key
from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import Amount, Payer, Request
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import GatewaySettings, TenantSettings
from tests.breakers import Breakers
from tests.budget import Budget
from tests.gateways import gateway

ACME, ACME_LINE = make_key("acme")
OTHER, OTHER_LINE = make_key("other")
KEYS = f"# keys of this gateway\n\n{ACME_LINE}\n{OTHER_LINE}\n"


@pytest.fixture
async def http(redis_url):
    async with gateway(redis_url, keys=KEYS) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def submit(http, key, **body) -> str:
    response = await http.post("/tasks", json={"input": {}, **body}, headers=bearer(key))
    assert response.status_code == 202, response.text
    return response.json()["task_id"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("lgrq_wrong"),
        bearer(""),
        bearer(ACME + "x"),
        {"Authorization": f"Basic {ACME}"},
        {"X-API-Key": "wrong"},
        bearer(ACME_LINE.partition(":")[2]),
    ],
)
@pytest.mark.parametrize("path", ["/tasks", "/query", "/usage", "/tasks/t/events", "/nowhere"])
async def test_without_a_right_key_nothing_is_answered(http, headers, path):
    response = await http.get(path, headers=headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["type"].endswith("unauthorized")


async def test_key_is_checked_before_the_body_is_read(http):
    response = await http.post("/tasks", content=b"{" * 1_000_000)
    assert response.status_code == 401


@pytest.mark.parametrize("headers", [bearer(ACME), {"X-API-Key": ACME}, {"Authorization": f"bearer {ACME}"}])
async def test_right_key_is_let_in(http, headers):
    assert (await http.get("/tasks", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/openapi.json", "/page/page.js"])
async def test_what_tells_nothing_about_tenants_needs_no_key(http, path):
    assert (await http.get(path)).status_code in {200, 503}


async def test_another_tenants_task_is_as_if_it_did_not_exist(http):
    task_id = await submit(http, ACME)
    seen = []
    for name in (task_id, "nobody", f"acme--{task_id}"):
        for method, path in (
            ("GET", ""),
            ("GET", "/result"),
            ("GET", "/events"),
            ("DELETE", ""),
            ("POST", "/resume"),
        ):
            body = {"json": {"value": 1}} if method == "POST" else {}
            response = await http.request(method, f"/tasks/{name}{path}", headers=bearer(OTHER), **body)
            seen.append((response.status_code, response.json()["type"]))
        found = await http.get(f"/status/{name}", headers=bearer(OTHER))
        assert found.json() == {"request_id": name, "found": False, "state": None}
    assert set(seen) == {(404, "urn:langgraph-rq:problem:unknown_task")}
    assert (await http.get(f"/tasks/{task_id}", headers=bearer(ACME))).status_code == 200


async def test_same_id_and_idempotency_key_of_two_tenants_are_two_tasks(http):
    await submit(http, ACME, task_id="t1", metadata={"of": "acme"})
    await submit(http, OTHER, task_id="t1", metadata={"of": "other"})
    for key in (ACME, OTHER):
        headers = {**bearer(key), "Idempotency-Key": "k"}
        response = await http.post("/tasks", json={"input": {"of": key}}, headers=headers)
        assert (response.status_code, response.json()["created"]) == (202, True)


async def test_same_thread_and_user_of_two_tenants_are_two(http, redis_client):
    for key in (ACME, OTHER):
        await submit(http, key, task_id="t1", thread_id="th", user_id="ann")
    data = [redis_client.hget(f"rq:job:{tenant}--t1", "task") for tenant in ("acme", "other")]
    threads = [redis_client.hget(f"agent:task:{tenant}--t1", "thread") for tenant in ("acme", "other")]
    assert data[0] != data[1]
    assert threads == ["acme--th", "other--th"]


async def test_tasks_list_shows_ones_own(http):
    own = await submit(http, ACME)
    await submit(http, OTHER)
    listed = (await http.get("/tasks", headers=bearer(ACME))).json()["tasks"]
    assert [one["task_id"] for one in listed] == [own]


async def test_rate_is_counted_per_tenant(redis_url):
    async with gateway(redis_url, keys=KEYS, rate="1/hour") as http:
        await submit(http, ACME, user_id="ann")
        await submit(http, OTHER, user_id="ann")
        over = await http.post("/tasks", json={"input": {}, "user_id": "ann"}, headers=bearer(ACME))
    assert over.status_code == 429


def test_gateway_without_keys_must_be_wanted():
    with pytest.raises(SettingsError, match="LGRQ_GATEWAY_KEYS_FILE: expected a file of API keys"):
        create_app(GatewaySettings())


def test_gateway_without_keys_listens_to_this_machine_only():
    with pytest.raises(SettingsError, match=r"LGRQ_GATEWAY_HOST: .* without keys, got: 0\.0\.0\.0"):
        create_app(GatewaySettings(without_keys=True, host="0.0.0.0"))


async def test_gateway_without_keys_answers_to_no_foreign_name(redis_url):
    """A web page elsewhere could give this machine's address a name of its own."""
    async with gateway(redis_url) as http:
        response = await http.get("/tasks", headers={"Host": "evil.example"})
    assert (response.status_code, response.json()["type"]) == (421, "urn:langgraph-rq:problem:foreign_host")


@pytest.mark.parametrize(
    "line",
    ["acme", "acme:abc", f"Acme:{'0' * 64}", f"a-b:{'0' * 64}", ACME],
    ids=["no digest", "short digest", "upper case", "dash", "the key itself"],
)
def test_line_that_is_no_kept_key_is_named_and_not_shown(line):
    with pytest.raises(SettingsError, match="line 2: expected tenant:sha256") as raised:
        Keyring.parse(f"{ACME_LINE}\n{line}", TenantSettings())
    assert line not in str(raised.value).replace("tenant:sha256", "").split(", as ")[0]


def test_no_keys_at_all_is_a_mistake():
    with pytest.raises(SettingsError, match="at least one key"):
        Keyring.parse("# none yet\n", TenantSettings())


def test_new_key_is_unguessable_and_only_its_digest_is_kept():
    keys = [make_key("acme") for _ in range(50)]
    assert len({key for key, _ in keys}) == 50
    assert all(len(key) > 40 and key not in line for key, line in keys)
    with pytest.raises(SettingsError, match="tenant: expected"):
        make_key("Acme Corp")


async def test_usage_shows_a_tenant_only_what_is_its_own(http, aredis):
    budget, payer = Budget(aredis), Payer("acme", "ann", "t")
    await budget.reserve("r", Request(Amount(70)), "gpt-4o", payer)
    await Breakers(aredis, BreakerLimits()).allow("gpt-4o", "token")
    await submit(http, ACME)
    own, others = [(await http.get("/usage", headers=bearer(key))).json() for key in (ACME, OTHER)]
    assert (own["tokens"]["held"], own["open_tasks"], own["breakers"]) == (70, 1, [])
    assert (own["queued_tasks"], own["workers"]) == (None, None)
    assert (others["tokens"]["held"], others["open_tasks"], others["breakers"]) == (0, 0, [])
    of_user = (await http.get("/usage?user_id=ann", headers=bearer(ACME))).json()
    assert of_user["tokens"]["held"] == 70

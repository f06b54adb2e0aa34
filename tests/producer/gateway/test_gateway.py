"""What the HTTP API answers."""

import asyncio
import json
from typing import TypedDict

import httpx
import pytest
from langgraph.types import interrupt

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.worker.guards.refusals import BudgetExceeded
from tests.fleet import PLUS_ONE, Number, one_node_graph, worker
from tests.gateways import gateway
from tests.waiting import until


class Question(TypedDict):
    query: str
    answer: str


async def answer(state: Question):
    return {"answer": f"You asked: {state['query']}"}


@pytest.fixture
async def http(redis_url):
    async with gateway(redis_url) as client:
        yield client


@pytest.fixture
async def serving(redis_url):
    graphs = {"g": PLUS_ONE, "assistant": one_node_graph(answer, Question)}
    async with worker(redis_url, graphs) as one:
        yield one


async def post(http, path="/tasks", **body) -> httpx.Response:
    return await http.post(path, json=body)


def problem(response: httpx.Response, status: int, kind: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (document["status"], document["type"]) == (status, f"urn:langgraph-rq:problem:{kind}")
    assert document["title"]
    return document


async def test_task_is_accepted_and_its_result_is_where_location_says(http, serving):
    accepted = await post(http, input={"n": 1}, graph="g")
    assert accepted.status_code == 202
    receipt = accepted.json()
    assert accepted.headers["location"] == f"/tasks/{receipt['task_id']}"
    assert (receipt["state"], receipt["created"]) == ("pending", True)
    result = await http.get(accepted.headers["location"] + "/result", params={"wait": 20})
    assert result.status_code == 200
    assert (result.json()["status"], result.json()["result"]) == ("success", {"n": 2})
    assert (await http.get(accepted.headers["location"])).json()["state"] == "success"


async def test_input_is_judged_by_what_the_graph_takes(http, serving):
    await until(lambda: serving.is_held)
    refused = problem(await post(http, input=[1], graph="g"), 422, "invalid_request")
    assert refused["errors"] == [{"field": "input", "message": "input: expected a JSON object, got: a list of 1"}]
    accepted = await post(http, input={"nn": 1}, graph="g")
    assert accepted.status_code == 202
    assert accepted.json()["warnings"] == ["input.nn: unknown field (did you mean n?); the graph ignores it"]


async def test_overwritten_tasks_hide_no_others_and_are_not_found(http, redis_client):
    ids = [(await post(http, input={})).json()["task_id"] for _ in range(3)]
    redis_client.hset(f"agent:task:{ids[0]}", "state", "odd")
    redis_client.delete(f"agent:task:{ids[1]}", f"rq:job:{ids[1]}")
    redis_client.set(f"agent:task:{ids[1]}", "odd")
    assert [one["task_id"] for one in (await http.get("/tasks")).json()["tasks"]] == [ids[2]]
    for task_id in ids[:2]:
        problem(await http.get(f"/tasks/{task_id}"), 404, "unknown_task")
    redis_client.delete("agent:run_count:default")
    redis_client.set("agent:run_count:default", "odd")
    assert (await http.get("/tasks")).json() == {"tasks": [], "next": None}
    assert (await post(http, input={})).status_code == 202


async def test_result_that_is_not_there_yet_is_202(http):
    location = (await post(http, input={})).headers["location"]
    for wait in (0, 0.05):
        response = await http.get(f"{location}/result", params={"wait": wait})
        assert (response.status_code, response.json()["state"]) == (202, "pending")


async def test_cancelled_task_ends_and_stays_ended(http):
    location = (await post(http, input={})).headers["location"]
    for _ in range(2):
        cancelled = await http.delete(location)
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert (await http.get(f"{location}/result")).json()["status"] == "cancelled"


async def test_query_waits_and_answers_in_the_classic_shape(http, serving):
    response = await post(http, "/query", query="why?", user_id="ann")
    assert response.status_code == 200
    asked = response.json()
    assert asked.keys() == {"request_id", "result", "error", "metadata"}
    assert (asked["result"], asked["error"], asked["metadata"]["status"]) == ("You asked: why?", None, "success")
    status = (await http.get(f"/status/{asked['request_id']}")).json()
    assert status == {
        "request_id": asked["request_id"],
        "found": True,
        "state": {"query": "why?", "answer": "You asked: why?"},
    }


async def test_query_that_takes_longer_is_202_and_found_without_values(http):
    response = await http.post("/query", json={"query": "why?"}, params={"wait": 0.05})
    assert response.status_code == 202
    asked = response.json()
    assert (asked["result"], asked["error"], asked["metadata"]) == (None, None, {"status": "pending"})
    status = (await http.get(response.headers["location"])).json()
    assert status == {"request_id": asked["request_id"], "found": True, "state": None}


@pytest.mark.parametrize("request_id", ["nobody", "../../etc/passwd", "acme--t1", "x" * 500])
async def test_unknown_request_is_not_found(http, request_id):
    response = await http.get("/status/" + request_id.replace("/", "%2F"))
    assert response.status_code in {200, 404}
    if response.status_code == 200:
        assert (response.json()["found"], response.json()["state"]) == (False, None)


async def test_query_over_the_budget_is_429_and_says_when_to_come_back(http, redis_url):
    async def spend(_state):
        raise BudgetExceeded("daily token budget spent", 120.0)

    async with worker(redis_url, {"assistant": one_node_graph(spend, Question)}):
        response = await post(http, "/query", query="why?")
    document = problem(response, 429, "budget_exceeded")
    assert int(response.headers["retry-after"]) == 120
    assert (document["detail"], document["result"]) == ("daily token budget spent", None)
    assert document["error"].startswith(ErrorType.BUDGET_EXCEEDED)


async def test_hundred_posts_with_one_idempotency_key_are_one_task(http, redis_client):
    headers = {"Idempotency-Key": "order-17"}
    responses = await asyncio.gather(
        *(http.post("/tasks", json={"input": {"n": 1}}, headers=headers) for _ in range(100))
    )
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["task_id"] for response in responses}) == 1
    assert sum(response.json()["created"] for response in responses) == 1
    assert redis_client.zcard("agent:open") == 1


async def test_second_answer_to_a_question_is_a_conflict_that_names_the_first(http, redis_url):
    async def ask(_state):
        return {"n": interrupt("how many?")}

    async with worker(redis_url, {"g": one_node_graph(ask, Number)}, checkpoints=True):
        asked = (await post(http, input={"n": 1}, graph="g")).json()["task_id"]
        assert (await http.get(f"/tasks/{asked}/result?wait=10")).json()["status"] == "interrupted"
        answered = (await post(http, f"/tasks/{asked}/resume", value=3)).json()["task_id"]
        assert (await http.get(f"/tasks/{answered}/result?wait=10")).json()["result"] == {"n": 3}
    refused = problem(await post(http, f"/tasks/{asked}/resume", value=4), 409, "already_answered")
    submitted_at = (await http.get(f"/tasks/{answered}")).json()["submitted_at"]
    assert (refused["answered_by"], refused["answered_at"]) == (answered, submitted_at)


@pytest.mark.parametrize("identified", [{"headers": {"Idempotency-Key": "k"}}, {"task_id": "t"}])
async def test_another_body_under_the_same_identity_is_a_conflict(http, identified):
    body = {"task_id": identified["task_id"]} if "task_id" in identified else {}
    headers = identified.get("headers")
    assert (await http.post("/tasks", json={"input": {"n": 1}, **body}, headers=headers)).status_code == 202
    other = await http.post("/tasks", json={"input": {"n": 2}, **body}, headers=headers)
    problem(other, 409, "task_conflict")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"input": None}, "input", "a value, or beside null a thread_id"),
        ({}, "input", "nothing"),
        ({"input": {}, "inptu": {}}, "inptu", "unknown field (did you mean input?)"),
        ({"input": {}, "tenant": "acme"}, "tenant", "unknown field"),
        ({"input": {}, "resume": {"answers": {"x": 1}}}, "resume", "unknown field"),
        ({"input": {}, "deadline_s": -1}, "deadline_s", "greater than 0"),
        ({"input": {}, "deadline_s": 1e9}, "deadline_s", "at most 86,400"),
        ({"input": {}, "task_id": "a--b"}, "task_id", "single dashes"),
        ({"input": {}, "stream": ["tokens"]}, "stream.0", "'checkpoints', 'custom'"),
        ({"input": {"a": {"b": "bell \x07"}}}, "input.a.b", "U+0007"),
        ({"input": {"a\x00": 1}}, "input", "U+0000"),
        ({"input": {"a": 2**80}}, "input.a", "below 2^63"),
        ({"input": {"x; y": 10**20}}, "input.x; y", "below 2^63"),
        ({"input": {"x: y": 10**20}}, "input.x: y", "below 2^63"),
        ({"input": json.loads("[" * 60 + "]" * 60) and {"a": json.loads("[" * 60 + "]" * 60)}}, "input", "levels"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
async def test_refused_task_names_the_field(http, body, field, words):
    document = problem(await post(http, **body), 422, "invalid_request")
    (error,) = document["errors"]
    assert error["field"].startswith(field)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"input": {"n": NaN}}', "expected JSON"),
        (b'{"input": {"n": 1e999}}', "a finite number"),
        (b'{"input": {"n": "\\ud800"}}', "expected JSON"),
        (b'{"input": {"n": "\xff"}}', "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"{", "expected JSON"),
        (b"", "body"),
        (b"[]", "body"),
    ],
)
async def test_body_that_is_no_json_object_is_refused(http, content, words):
    headers = {"Content-Type": "application/json"}
    document = problem(await http.post("/tasks", content=content, headers=headers), 422, "invalid_request")
    assert words in document["detail"]


async def test_body_without_its_content_type_is_refused(http):
    """A foreign web page can send it without asking."""
    response = await http.post("/tasks", content=b'{"input": {}}', headers={"Content-Type": "text/plain"})
    assert "application/json" in problem(response, 422, "invalid_request")["detail"]


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_body_over_the_limit_is_413(http, is_chunked):
    async def chunks():
        for _ in range(10):
            yield b'"' + b"x" * 1_000_000

    content = chunks() if is_chunked else b'"' + b"x" * 10_000_000
    response = await http.post("/tasks", content=content, headers={"Content-Type": "application/json"})
    problem(response, 413, "body_too_large")


async def test_graph_that_nobody_serves_is_refused_by_name(http, serving):
    document = problem(await post(http, input={}, graph="nope"), 422, "invalid_request")
    assert document["errors"][0]["field"] == "graph"


@pytest.mark.parametrize("method", ["get", "delete"])
async def test_unknown_task_is_404(http, method):
    problem(await getattr(http, method)("/tasks/nobody"), 404, "unknown_task")


async def test_unknown_path_is_404_too(http):
    problem(await http.get("/nowhere"), 404, "not_found")


async def test_user_over_the_rate_is_429_and_others_are_not(redis_url):
    async with gateway(redis_url, rate="2/minute") as http:
        first, second, third = [await post(http, input={}, user_id="ann") for _ in range(3)]
        assert (first.status_code, first.headers["x-ratelimit-limit"]) == (202, "2")
        assert [one.headers["x-ratelimit-remaining"] for one in (first, second, third)] == ["1", "0", "0"]
        problem(third, 429, "rate_limited")
        assert 0 < int(third.headers["retry-after"]) <= 90  # two submissions of a window leave half of the next one
        assert (await post(http, input={}, user_id="bob")).status_code == 202
        assert (await post(http, input={})).status_code == 202


async def test_rate_counters_are_forgotten(redis_url, redis_client):
    async with gateway(redis_url, rate="2/minute") as http:
        await post(http, input={}, user_id="ann")
    keys = redis_client.keys("*rate*")
    assert keys
    assert all(0 < redis_client.ttl(key) <= 120 for key in keys)
    assert all(key.startswith("agent:rate:") for key in keys), keys


async def test_deep_queue_pushes_back(redis_url):
    async with gateway(redis_url, open_tasks=2) as http:
        responses = [await post(http, input={}) for _ in range(3)]
    assert [one.status_code for one in responses] == [202, 202, 429]
    problem(responses[-1], 429, "queue_full")
    assert int(responses[-1].headers["retry-after"]) > 0


async def test_recent_tasks_are_listed_newest_first(http):
    ids = [(await post(http, input={"n": n})).json()["task_id"] for n in range(3)]
    first = (await http.get("/tasks", params={"limit": 2})).json()
    rest = (await http.get("/tasks", params={"limit": 2, "before": first["next"]})).json()
    assert [one["task_id"] for one in first["tasks"] + rest["tasks"]] == ids[::-1]
    assert rest["next"] is None


async def test_tasks_are_listed_by_state_user_graph_and_time(http):
    mine = (await post(http, input={"n": 1}, user_id="ann")).json()["task_id"]
    other = (await post(http, input={"n": 2}, user_id="bob")).json()["task_id"]
    await http.delete(f"/tasks/{other}")

    async def listed(**params):
        return [one["task_id"] for one in (await http.get("/tasks", params=params)).json()["tasks"]]

    assert await listed(user_id="ann") == await listed(state="pending") == [mine]
    assert await listed(state="cancelled", until="2999-01-01T00:00:00Z") == [other]
    assert await listed(graph="nobody's") == await listed(since="2999-01-01T00:00:00Z") == []
    problem(await http.get("/tasks", params={"state": "done"}), 422, "invalid_request")


async def test_usage_shows_limits_depth_and_workers(http, serving):
    usage = (await http.get("/usage")).json()
    assert (usage["tokens"]["used"], usage["tokens"]["limit"]) == (0, 1_000_000)
    assert (usage["workers"], usage["open_tasks"]) == (1, 0)
    assert (await http.get("/usage", params={"user_id": "ann"})).json()["tokens"]["limit"] is None


@pytest.mark.parametrize(
    "path", ["/tasks", "/tasks/t", "/tasks/t/result", "/usage", "/health", "/ready", "/metrics", "/"]
)
async def test_unknown_query_parameter_is_refused_on_every_route(http, path):
    refused = problem(await http.get(path, params={"limt": 1}), 422, "invalid_request")
    assert refused["errors"][0]["field"] == "limt"
    assert "unknown field" in refused["detail"]


@pytest.mark.parametrize(("path", "methods"), [("/tasks", "GET, POST"), ("/tasks/t", "DELETE, GET")])
async def test_method_that_a_path_does_not_have_is_answered_with_all_that_it_has(http, path, methods):
    refused = await http.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)


async def test_empty_last_event_id_is_the_beginning(http, serving):
    task_id = (await post(http, input={"n": 1}, graph="g")).json()["task_id"]
    await http.get(f"/tasks/{task_id}/result?wait=10")
    answers = [await http.get(f"/tasks/{task_id}/events", headers=headers) for headers in ({}, {"Last-Event-ID": ""})]
    assert answers[0].text == answers[1].text
    assert "event: end" in answers[1].text


async def test_no_parameter_of_the_openapi_document_may_be_null(http):
    document = (await http.get("/openapi.json")).json()
    for path, item in document["paths"].items():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                assert '"null"' not in json.dumps(parameter), (path, parameter["name"])


async def test_health_touches_nothing_and_ready_says_what_is_missing():
    with EmbeddedRedis() as server:
        async with gateway(server.url) as http:
            assert (await http.get("/ready")).json()["parts"]["workers"]["ready"] is False
            async with worker(server.url, {"g": PLUS_ONE}):
                ready = await http.get("/ready")
                assert (ready.status_code, ready.json()["ready"]) == (200, True)
            server.kill()
            assert (await http.get("/health")).status_code == 200
            missing = await http.get("/ready")
            assert (missing.status_code, missing.json()["parts"].keys()) == (503, {"redis"})
            away = await post(http, input={})
            problem(away, 503, "redis_unavailable")
            assert away.headers["retry-after"]
            server.start()
            assert (await post(http, input={}, graph="g")).status_code == 202


async def test_not_ready_while_every_breaker_is_open(http, serving, redis_url):
    from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
    from langgraph_rq.shared.connections.clients import open_async
    from tests.breakers import Breakers

    async with open_async(redis_url) as redis:
        breaker = Breakers(redis, BreakerLimits())
        for token in map(str, range(5)):
            admitted = await breaker.allow("openai/gpt-4o", token)
            await breaker.report("openai/gpt-4o", token, admitted.generation, Outcome.FAIL)
    part = (await http.get("/ready")).json()["parts"]["breakers"]
    assert part == {"ready": False, "detail": "1 of 1 open"}


async def test_metrics_are_prometheus_text(http):
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "agent_redis_up 1.0" in response.text

"""The running gateway against its own OpenAPI document: no server error, no undocumented answer or refusal."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.shared.settings import GatewaySettings
from tests.gateways import start_gateway

EXAMPLES = 15
"""Per operation: what a loaded machine does in about a second."""

OPERATIONS = [
    f"{method.upper()} {path}"
    for path, item in create_app(GatewaySettings(without_keys=True)).openapi()["paths"].items()
    for method in item
]


OF_A_RUN = {
    "command",
    "config",
    "context",
    "interrupt_before",
    "interrupt_after",
    "checkpoint_id",
    "run_at",
    "delay_s",
}
"""Fields with rules that no schema says, such as one or the other: tests/langgraph/test_task_fields.py has them."""

OF_LANGGRAPH = ("/threads", "/runs", "/assistants", "/store")
"""Routes of LangGraph's API, of which tests/langgraph_api says what they refuse."""


@pytest.fixture(scope="module")
def openapi(installation, tmp_path_factory):
    with start_gateway(tmp_path_factory.mktemp("gateway"), installation.environment) as gateway:
        gateway.wait_until_ready()
        yield schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
        gateway.process.terminate()
        assert gateway.process.wait(30) == 0


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_documented(openapi, label):
    (operation,) = [found.ok() for found in openapi.get_all_operations() if found.ok().label == label]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy())
    def ask(case):
        if label == "POST /query":
            case.query = {"wait": 0.02}
        if label == "POST /tasks":
            case.body["graph"] = "elsewhere"  # what a graph takes as input is no rule of the API
            case.body.pop("task_id", None)  # not beside an Idempotency-Key
            case.body = {name: case.body[name] for name in case.body if name not in OF_A_RUN}
            case.body["input"] = case.body.get("input") or {}  # null wants a thread
        answer = case.call_and_validate(timeout=20, excluded_checks=[positive_data_acceptance])
        if answer.status_code == 422 and not any(part in label for part in OF_LANGGRAPH):
            (error,) = answer.json()["errors"]
            assert error["message"].startswith("graph: expected one that a live worker serves")

    ask()


def test_operations_are_those_of_the_documented_api():
    assert set(OPERATIONS) == {
        "POST /tasks",
        "GET /tasks",
        "GET /tasks/{task_id}",
        "DELETE /tasks/{task_id}",
        "GET /tasks/{task_id}/result",
        "GET /tasks/{task_id}/events",
        "POST /tasks/{task_id}/resume",
        "POST /tasks/{task_id}/continue",
        "POST /query",
        "GET /status/{request_id}",
        "GET /usage",
        "GET /health",
        "GET /ready",
        "GET /metrics",
        "GET /ok",
        "GET /info",
        "POST /assistants/search",
        "POST /assistants/count",
        "GET /assistants/{assistant}",
        "GET /assistants/{assistant}/graph",
        "GET /assistants/{assistant}/schemas",
        "GET /assistants/{assistant}/subgraphs",
        "GET /assistants/{assistant}/subgraphs/{namespace}",
        "POST /threads",
        "GET /threads/{thread}",
        "PATCH /threads/{thread}",
        "DELETE /threads/{thread}",
        "POST /threads/search",
        "POST /threads/count",
        "GET /threads/{thread}/state",
        "POST /threads/{thread}/state",
        "GET /threads/{thread}/state/{checkpoint_id}",
        "POST /threads/{thread}/state/checkpoint",
        "POST /threads/{thread}/history",
        "GET /threads/{thread}/history",
        "POST /threads/{thread}/copy",
        "POST /threads/prune",
        "GET /threads/{thread}/storage",
        "PUT /store/items",
        "GET /store/items",
        "DELETE /store/items",
        "POST /store/items/search",
        "POST /store/namespaces",
        "POST /threads/{thread}/runs",
        "GET /threads/{thread}/runs",
        "POST /threads/{thread}/runs/stream",
        "POST /threads/{thread}/runs/wait",
        "GET /threads/{thread}/runs/{run}",
        "DELETE /threads/{thread}/runs/{run}",
        "GET /threads/{thread}/runs/{run}/join",
        "GET /threads/{thread}/runs/{run}/stream",
        "GET /threads/{thread}/stream",
        "POST /threads/{thread}/runs/{run}/cancel",
        "POST /runs",
        "POST /runs/batch",
        "POST /runs/stream",
        "POST /runs/wait",
        "POST /runs/cancel",
    }

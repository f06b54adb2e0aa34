"""Every route and field of LangGraph's API is served or refused by name, and the page that lists them is current."""

import inspect
from collections import defaultdict

from langgraph_sdk import client as sdk

from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.shared.settings import GatewaySettings
from tests.installation import ROOT
from tests.langgraph_api.routes import PATHS, ROUTES
from tests.langgraph_api.surface import parameters, write

PAGE = ROOT / "docs/reference/langgraph-api-routes.md"
CLIENTS = [sdk.AssistantsClient, sdk.RunsClient, sdk.StoreClient, sdk.ThreadsClient]
NO_FIELDS = {"headers", "last_event_id", "on_run_created", "params", "raise_error", "response_format", "return_minimal"}
"""Parameters of the SDK that it does not send, or in a header."""
OF_EVENTS = {"run_start_timeout", "transport"}
OTHERWISE = {"langsmith_tracing": "langsmith_tracer", "payloads": "assistant_id"}
"""Parameter of the SDK -> a field as which it is sent."""


async def test_page_of_routes_and_fields_is_current(redis_url):
    assert await write(redis_url) == PAGE.read_text(), "make api-docs writes it"


def test_every_route_and_field_of_the_gateway_is_listed():
    described = create_app(GatewaySettings(without_keys=True)).openapi()
    listed: dict[tuple[str, str], set[str]] = defaultdict(set)
    for route in ROUTES:
        listed[route.method.lower(), route.path].update(route.names)
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            if any(tag.startswith("langgraph") for tag in operation.get("tags", ())):
                assert {*parameters(described, method, path)} <= listed[method, path], (method, path)


def test_every_parameter_of_the_sdk_is_listed():
    listed = {*PATHS, *(name for route in ROUTES for name in route.names)}
    for client in CLIENTS:
        for name, method in inspect.getmembers(client, inspect.isfunction):
            if not name.startswith("_"):
                given = {*inspect.signature(method).parameters} - {"self"} - NO_FIELDS - OF_EVENTS
                sent = {OTHERWISE.get(one, one) for one in given}
                assert {one for one in sent if not {one, one.removesuffix("_id")} & listed} == set(), (client, name)

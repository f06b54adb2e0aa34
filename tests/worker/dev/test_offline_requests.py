"""Requests that the offline model server rejects."""

import pytest

from tests.offline_model import WEATHER, body_of, post


async def test_models_are_listed(client):
    assert {"gpt-4o", "gpt-4o-mini"} <= {model.id async for model in client.models.list()}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "gpt-4o"}, "messages"),
        ({"model": "gpt-4o", "messages": ["hi"]}, "messages"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "model"),
        (body_of(n=2), "n"),
        (body_of(max_tokens=0), "max_completion_tokens"),
        (body_of(tools=[WEATHER], tool_choice={"function": {"name": "nope"}}), "tool_choice"),
        (body_of(tools=[{"type": "web_search"}]), "tools"),
        (body_of(tools=5), None),
        ([], None),
    ],
)
def test_bad_request_names_its_field(server, body, param):
    reply = post(server, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [{"input": []}, {"input": 5}, {"input": "x", "dimensions": 10_000}])
def test_bad_embedding_request_is_refused(server, body):
    reply = post(server, "embeddings", json={"model": "m", **body})
    assert reply.status_code == 400


def test_body_that_is_not_json_is_refused(server):
    assert post(server, content=b"{").status_code == 400


def test_unknown_route_names_the_known_ones(server):
    reply = post(server, "engines")
    assert reply.status_code == 404
    assert "/v1/chat/completions" in reply.json()["error"]["message"]

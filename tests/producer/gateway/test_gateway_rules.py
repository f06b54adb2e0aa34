"""Every rule of the OpenAPI document is one that the gateway keeps, and every refusal is a rule of the document."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, TypedDict

import pytest
from jsonschema import Draft202012Validator
from langgraph.types import interrupt

from tests.fleet import one_node_graph, worker
from tests.gateways import gateway

BELL = "\x07"
OF_A_RUN = {"command", "config", "context", "interrupt_before", "interrupt_after", "run_at"}
"""Fields of LangGraph's run, which tests/langgraph/test_task_fields.py breaks."""


class Said(TypedDict):
    text: Any


async def ask(_state):
    return {"text": interrupt("really?")}


def _is_langgraphs(item: dict) -> bool:
    return any(tag.startswith("langgraph") for operation in item.values() for tag in operation.get("tags", ()))


class Document:
    """The OpenAPI document, read as schemas."""

    def __init__(self, document: dict) -> None:
        self.document = document
        self.paths = {path: item for path, item in document["paths"].items() if not _is_langgraphs(item)}
        """Of our own routes: what LangGraph's API takes, tests/langgraph_api says."""

    def resolved(self, schema: dict) -> dict:
        name = schema.get("$ref", "").rpartition("/")[2]
        return {**self.document["components"]["schemas"][name], **schema} if name else schema

    def allows(self, schema: dict, value: Any) -> bool:
        return Draft202012Validator({**schema, "components": self.document["components"]}).is_valid(value)

    def breaches(self, schema: dict) -> Iterator[Any]:
        """Yield a value for each rule that breaks that one."""
        if schema.get("$ref", "").endswith("/Json"):
            yield from (None for _ in range("not" in schema))
            yield from (BELL, 2**63, [BELL], {BELL: 1}, {"a": -(2**63)}, {"a": [BELL]})
            return
        schema = self.resolved(schema)
        if "anyOf" in schema:
            yield from (each for part in schema["anyOf"] if part != {"type": "null"} for each in self.breaches(part))
            return
        kind = schema.get("type")
        if "enum" in schema:
            yield "nope"
        elif kind in {"number", "integer"}:
            yield "nope"
            yield from (schema[key] - 1 for key in ("minimum",) if key in schema)
            yield from (schema[key] for key in ("exclusiveMinimum",) if key in schema)
            yield from (schema[key] + 1 for key in ("maximum",) if key in schema)
        elif kind == "boolean":
            yield "nope"
        elif kind == "string":
            yield from self._texts(schema)
        elif kind == "array":
            yield 5
            yield from ([each] for each in self.breaches(schema["items"]))
        else:
            assert kind == "object", schema
            yield 5
            yield from ({} for _ in range(schema.get("minProperties", 0)))
            yield from ({name: 1} for name in self._texts(schema["propertyNames"]))
            yield from ({"a": each} for each in self.breaches(schema["additionalProperties"]))

    @staticmethod
    def _texts(schema: dict) -> Iterator[str]:
        yield from ("" for _ in range(schema.get("minLength", 0)))
        yield from ("a" * (schema["maxLength"] + 1) for _ in range("maxLength" in schema))
        yield from (f"a {BELL}" for _ in range("pattern" in schema))


@pytest.fixture
async def http(redis_url):
    async with gateway(redis_url) as client:
        yield client


@pytest.fixture
async def document(http):
    return Document((await http.get("/openapi.json")).json())


@pytest.fixture
async def asked(http, redis_url):
    """An interrupted task."""
    async with worker(redis_url, {"g": one_node_graph(ask, Said)}, checkpoints=True):
        task_id = (await http.post("/tasks", json={"input": {"text": ""}, "graph": "g"})).json()["task_id"]
        assert (await http.get(f"/tasks/{task_id}/result?wait=10")).json()["status"] == "interrupted"
        yield task_id


def bad_bodies(document: Document, schema: dict) -> Iterator[Any]:
    good = {"input": {"query": "?"}, "graph": "g"} if "input" in schema["properties"] else schema["examples"][0]
    yield "no object"
    yield {**good, "unheard_of": 1}
    yield from ({name: good[name] for name in good if name != needed} for needed in schema.get("required", ()))
    if "oneOf" in schema:
        yield from ({}, {"value": 1, "answers": {"a": 1}})
        good = {}
    for name, field in schema["properties"].items():
        if name in OF_A_RUN:
            continue
        for value in document.breaches(field):
            yield {**deepcopy(good), name: value}


async def test_every_rule_about_a_body_is_kept(http, document, asked):
    walked = 0
    for path, item in document.paths.items():
        for method, operation in item.items():
            if "requestBody" not in operation:
                continue
            reference = operation["requestBody"]["content"]["application/json"]["schema"]
            for body in bad_bodies(document, document.resolved(reference)):
                answer = await http.request(method, path.replace("{task_id}", asked), json=body)
                assert answer.status_code == 422, (path, body, answer.text)
                assert not document.allows(reference, body), (path, body)
                walked += 1
    assert walked > 60


async def test_every_rule_about_a_parameter_is_kept(http, document):
    walked = set()
    for path, item in document.paths.items():
        for method, operation in item.items():
            url = path.replace("{task_id}", "t").replace("{request_id}", "t")
            body = {"json": {"query": "?"} if path == "/query" else {"input": {}}} if method == "post" else {}
            for parameter in operation.get("parameters", ()):
                for value in document.breaches(parameter["schema"]) if parameter["in"] != "path" else ():
                    text = str(value).replace(BELL, "é")  # no header has the character
                    sent = {"headers": {parameter["name"]: text.encode()}}
                    sent = sent if parameter["in"] == "header" else {"params": {parameter["name"]: value}}
                    answer = await http.request(method, url, **sent, **body)
                    assert answer.status_code == 422, (path, parameter["name"], value, answer.text)
                    walked.add((path, parameter["name"]))
            answer = await http.request(method, url, params={"unheard_of": "1"}, **body)
            assert (answer.status_code, "422" in operation["responses"]) == (422, True), path
    assert len(walked) == 11


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/page/page.js"])
async def test_unknown_query_parameter_is_refused_by_pages_too(http, path):
    assert (await http.get(path)).status_code == 200
    assert (await http.get(path, params={"unheard_of": "1"})).status_code == 422


async def test_refusals_that_no_schema_can_say_are_said_in_words(http, document):
    schemas = document.document["components"]["schemas"]
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    anything, fields = schemas["Json"]["description"], schemas["SubmitBody"]["properties"]
    for body, words, said in (
        ({"input": deep}, "at most 32 levels", anything),
        ({"input": {}, "metadata": {"a": "b" * 20_000}}, "16,000 as metadata", anything),
        ({"input": {}, "task_id": "t"}, "not beside an Idempotency-Key", fields["task_id"]["description"]),
    ):
        answer = await http.post("/tasks", json=body, headers={"Idempotency-Key": "k"} if "task_id" in body else {})
        assert answer.status_code == 422
        assert words in said

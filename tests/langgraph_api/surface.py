"""What a gateway answers to every route and field of LangGraph's API, as a page.

`make api-docs` writes it to docs/reference/langgraph-api-routes.md.
"""

import asyncio
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.gateways import listening
from tests.langgraph_api.routes import PATHS, ROUTES, Route


@dataclass(frozen=True)
class Answer:
    """What a gateway says to a route: why it refuses it, "" if it does not, and what of its fields it refuses."""

    route: Route
    refusal: str
    taken: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    """Field -> its refused values; () for all of them."""

    @property
    def row(self) -> str:
        """Write it as a row of a table."""
        state = f"refused: {self.refusal}" if self.refusal else "same"
        if self.route.better and not self.refusal:
            state = f"better: {self.route.better}"
        refused = [f"`{name}`" + (f" ({', '.join(values)})" if values else "") for name, values in self.refused.items()]
        taken = [f"`{name}`" for name in self.taken]
        return f"| `{self.route.method} {self.route.path}` | {state} | {', '.join(taken)} | {', '.join(refused)} |"


PAGE = """\
# LangGraph's API: every route and field

What LangGraph Server 0.16 and its SDKs know, and what our gateway does with it. The tests write this page from the
answers of a gateway. *Same*: as LangGraph's server answers; *better*: the same, and more; *refused*: 501 with the
reason, or 404 where there is no such route. A field or a value that is not taken is a 422 that names it: nothing is
ignored. What differs beyond that is on [the page of the API](../langgraph-api.md).

| Route | State | Fields taken | Fields and values refused |
|---|---|---|---|
"""


async def probe(http: httpx.AsyncClient) -> list[Answer]:
    """Ask a gateway for every route and field; no worker is needed."""
    return [await _probe(http, route) for route in ROUTES]


async def write(redis_url: str) -> str:
    """Write the page."""
    async with listening(redis_url) as (http, _):
        return PAGE + "".join(f"{answer.row}\n" for answer in await probe(http))


async def _probe(http: httpx.AsyncClient, route: Route) -> Answer:
    bare = await _ask(http, route)
    if bare.status_code == 501:
        return Answer(route, f"501, {bare.json()['detail']}", (), {})
    if bare.status_code == 405 or (bare.status_code == 404 and bare.json()["type"].endswith(":not_found")):
        return Answer(route, str(bare.status_code), (), {})
    refused: dict[str, tuple[str, ...]] = {}
    for name, values in {**route.fields, **route.query}.items():
        not_taken = [value for value in values if await _is_refused(http, route, name, value)]
        if not_taken:
            refused[name] = () if len(not_taken) == len(values) else tuple(map(str, not_taken))
    return Answer(route, "", tuple(name for name in route.names if refused.get(name) != ()), refused)


async def _is_refused(http: httpx.AsyncClient, route: Route, name: str, value: Any) -> bool:
    answer = await _ask(http, route, **{"query" if name in route.query else "fields": {name: value}})
    passes = answer.status_code == 503 and answer.json()["type"].endswith(
        ":no_answer"
    )  # to a worker, which is not there
    assert answer.status_code < 500 or answer.status_code == 501 or passes, answer.text
    return answer.status_code in {422, 501} and bool(re.search(rf"\b{name}\b", answer.json()["detail"]))


async def _ask(
    http: httpx.AsyncClient,
    route: Route,
    fields: Mapping[str, Any] | None = None,
    query: Mapping[str, str] | None = None,
) -> httpx.Response:
    await http.post("/threads", json={"thread_id": PATHS["thread"], "if_exists": "do_nothing"})
    body: Any = None if route.body is None else {**route.body, **(fields or {})}
    content = [body] if route.is_list else body
    async with http.stream(route.method, route.path.format(**PATHS), json=content, params=query) as answer:
        if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):  # that of a thread has no end
            await answer.aread()
    return answer


def parameters(openapi: Mapping[str, Any], method: str, path: str) -> Iterator[str]:
    """Name the fields and parameters that a gateway's own description has for a route."""
    described = openapi["paths"][path][method.lower()]
    yield from (one["name"] for one in described.get("parameters", ()) if one["in"] == "query")
    schema = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schema = _resolved(openapi, schema)
    yield from _resolved(openapi, schema.get("items", schema)).get("properties", {})


def _resolved(openapi: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return openapi["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema


if __name__ == "__main__":
    with EmbeddedRedis() as server:
        sys.stdout.write(asyncio.run(write(server.url)))

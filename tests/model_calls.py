"""Fixtures of model calls: ChatOpenAI on the offline server, nodes that call it, their task, and the tokens booked."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import openai
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from langgraph_rq import Client
from langgraph_rq.shared.errors import RedisUnavailableError
from tests.budget import Budget
from tests.fleet import one_node_graph, worker

OUTPUT_TOKENS = 100
QUESTION = "What is 2 + 2?"
INPUT_TOKENS = 5 + 8 + 4
"""The estimate of the question: a third of its bytes, and what a provider adds to a call and to a message."""
WORST_TOKENS = len(QUESTION) + 32 + 16 + OUTPUT_TOKENS
WAIT_S = 30


class Said(TypedDict):
    text: str


async def ainvoke(model):
    return (await model.ainvoke(QUESTION)).text


async def astream(model):
    return "".join([chunk.text async for chunk in model.astream(QUESTION)])


async def abatch(model):
    return "".join(one.text for one in await model.abatch([QUESTION, QUESTION]))


async def sync_in_async(model):
    return model.invoke(QUESTION).text


def invoke(model):
    return model.invoke(QUESTION).text


def stream(model):
    return "".join(chunk.text for chunk in model.stream(QUESTION))


ASYNC = [ainvoke, astream, abatch, sync_in_async]
SYNC = [invoke, stream]


def node_of(call, model):
    """A node that calls a model in one of these ways."""
    if call in SYNC:
        return lambda _state: {"text": call(model)}

    async def node(_state):
        return {"text": await call(model)}

    return node


@asynccontextmanager
async def chat_models(url: str):
    """Yield a factory of ChatOpenAIs that share two HTTP clients, because making a client takes a third of a second."""
    # The server speaks no TLS, so that no certificates need to be read.
    with openai.DefaultHttpxClient(verify=False) as http:
        async with openai.DefaultAsyncHttpxClient(verify=False) as http_async:

            def make(model: str = "gpt-4o-mini", **parameters: Any) -> ChatOpenAI:
                clients = {"http_client": http, "http_async_client": http_async}
                given = {"max_tokens": OUTPUT_TOKENS, "max_retries": 0, "stream_usage": True, **clients, **parameters}
                return ChatOpenAI(model=model, api_key="offline", base_url=url, **given)

            yield make


async def run_node(redis_url: str, node, **options: Any):
    """Run a task whose graph has one node and return its result."""
    return await run_graph(redis_url, one_node_graph(node, Said), **options)


async def run_graph(
    redis_url: str,
    graph,
    *,
    deadline_s: float = 60,
    task: dict | None = None,
    fields: dict | None = None,
    **options: Any,
):
    """Run a task, with more of its `fields`, through a worker and return its result."""
    async with worker(redis_url, {"g": graph}, **options):
        with Client(redis_url) as client:
            receipt = client.submit(
                task or {"text": "hello"}, graph="g", user_id="ann", deadline_s=deadline_s, **(fields or {})
            )
            while True:
                try:
                    return await asyncio.to_thread(client.wait, receipt.task_id, WAIT_S)
                except RedisUnavailableError:  # some tests take it away for longer than the client's patience
                    await asyncio.sleep(0.1)


def two_nodes_at_once(first, second) -> Any:
    """A graph of two branches that run in parallel."""
    builder = StateGraph(Said).add_node("first", first).add_node("second", second)
    for name in ("first", "second"):
        builder.add_edge(START, name).add_edge(name, END)
    return builder.compile()


async def books(aredis) -> tuple[int, int]:
    """Return the tokens that the fleet has used and holds."""
    tokens = (await Budget(aredis).usage()).tokens
    return tokens.used, tokens.held


def billed(llm) -> int:
    """Add up the tokens that the server would bill."""
    stats = llm.stats()
    return sum(stats["input_tokens"].values()) + sum(stats["output_tokens"].values())


def counted(result) -> int:
    """Add up the tokens of a result's metadata."""
    return result.metadata.input_tokens + result.metadata.output_tokens

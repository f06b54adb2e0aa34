"""The functional API, and what a node finds at run time: context, store, config, writer."""

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_store, get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import interrupt

from tests.langgraph.bench import CALLS, Case, chain


class Said(TypedDict):
    said: Annotated[list, operator.add]


@dataclass
class Settings:
    tone: str = "kind"
    size: int = 1


@task
async def square(n: int) -> int:
    CALLS["square"] += 1
    return n * n


@task
def slow_upper(word: str) -> str:
    return word.upper()


@entrypoint()
async def squares(numbers: list[int]) -> list[int]:
    return list(await asyncio.gather(*(square(n) for n in numbers)))


@entrypoint()
def sync_words(words: list[str]) -> str:
    futures = [slow_upper(word) for word in words]
    return " ".join(one.result() for one in futures)


@entrypoint()
async def running_total(n: int, *, previous: int | None = None) -> int:
    return n + (previous or 0)


@entrypoint()
async def kept_apart(n: int, *, previous: Any = None) -> entrypoint.final[dict, int]:
    return entrypoint.final(value={"before": previous}, save=n)


@entrypoint()
async def asks(topic: str) -> dict:
    draft = await square(len(topic))
    answer = interrupt({"draft": draft})
    return {"draft": draft, "answer": answer, "again": await square(2)}


@entrypoint()
async def fails(topic: str) -> str:
    await square(3)
    raise ValueError(topic)


async def tell_context(_state: Said, runtime: Runtime[Settings]) -> dict:
    return {"said": [[runtime.context.tone, runtime.context.size]]}


async def tell_runtime(_state: Said) -> dict:
    return {"said": [get_runtime(Settings).context.tone]}


async def tell_config(_state: Said, config: RunnableConfig) -> dict:
    found = get_config()["configurable"]
    return {"said": [config["configurable"].get("model"), found.get("model")]}


async def remember(state: Said, *, store: BaseStore) -> dict:
    before = await store.aget(("notes",), "last")
    await store.aput(("notes",), "last", {"said": len(state["said"])})
    return {"said": [before.value if before else None]}


async def remember_by_function(_state: Said) -> dict:
    store = get_store()
    await store.aput(("seen", "by"), f"k{len(await store.asearch(('seen',)))}", {"x": 1})
    return {"said": [len(await store.asearch(("seen", "by")))]}


async def write_progress(_state: Said) -> dict:
    get_stream_writer()({"progress": 50})
    return {"said": ["written"]}


def stored(*nodes: Any) -> Any:
    return chain(Said, *nodes).copy({"store": InMemoryStore()})


NEW: dict = {"input": {"said": []}}

CASES: dict[str, Case] = {
    "tasks side by side": Case(squares, [{"input": [1, 2, 3]}, {"input": []}]),
    "sync entrypoint and tasks": Case(sync_words, [{"input": ["a", "b"]}]),
    "previous result": Case(running_total, [{"input": 1}, {"input": 2}, {"input": 0}]),
    "saved apart from the result": Case(kept_apart, [{"input": 5}, {"input": 6}]),
    "entrypoint that asks": Case(asks, [{"input": "leases"}, {"command": {"resume": "fine"}}]),
    "entrypoint that fails": Case(fails, [{"input": "no"}], fails=True),
    "context with defaults": Case(chain(Said, tell_context, context_schema=Settings), [NEW]),
    "context given": Case(chain(Said, tell_context, context_schema=Settings), [{**NEW, "context": {"size": 3}}]),
    "context by get_runtime": Case(chain(Said, tell_runtime, context_schema=Settings), [NEW]),
    "configurable": Case(chain(Said, tell_config), [{**NEW, "config": {"configurable": {"model": "large"}}}]),
    "store injected": Case(stored(remember), [NEW, NEW], keeps=True),
    "store by get_store": Case(stored(remember_by_function), [NEW, NEW], keeps=True),
    "stream writer": Case(chain(Said, write_progress), [NEW]),
}

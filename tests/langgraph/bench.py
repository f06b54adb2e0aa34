"""The same graph run with LangGraph alone and through a worker, and what can be compared of the two."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send
from pydantic_core import from_json, to_json
from redis import Redis

from langgraph_rq import AsyncClient
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.run_fields import StreamMode
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.outputs.json_values import as_json
from tests.fleet import worker


class Calls(Counter[str]):
    """Counts calls; tells `noted` of each."""

    noted: Callable[[str], None] | None = None

    def __setitem__(self, call: str, count: int) -> None:
        super().__setitem__(call, count)
        if self.noted:
            self.noted(call)


CALLS = Calls()
"""Calls of models and nodes so far, by the thread that they were made for or a name; both runs count here."""

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00")
WAIT_S = 60


@dataclass(frozen=True)
class Case:
    """A graph, and the turns of one conversation with it.

    `turns` are the fields of a task each.
    """

    graph: Any
    turns: Sequence[Mapping[str, Any]]
    fails: bool = False
    """Whether the last turn raises."""
    forgets: bool = False
    """Whether it has values that no checkpoint keeps; the number of steps so far is one."""
    keeps: bool = False
    """Whether it keeps something across threads, so that only its first conversation is like the bare one."""


@dataclass
class Seen:
    """What was seen of one turn."""

    output: Any = None
    error: str | None = None
    calls: Counter[str] = field(default_factory=Counter)


@dataclass
class Streamed:
    """What was streamed of one turn."""

    parts: dict[str, list[Any]] = field(default_factory=dict)
    """By mode, the namespace and the data of each part."""
    failed: bool = False
    calls: Counter[str] = field(default_factory=Counter)


def plain(value: Any) -> Any:
    """A value as JSON, with ids that are made anew in each run replaced by the order in which they appear."""
    text = to_json(value, fallback=str, inf_nan_mode="constants").decode()
    seen: dict[str, str] = {}
    return from_json(_ID.sub(lambda found: seen.setdefault(found[0], f"id-{len(seen)}"), text))


def streamed(value: Any) -> Any:
    """A value as events show it, with ids in the order in which they appear, and without instants."""
    seen: dict[str, str] = {}

    def name(text: str) -> str:
        return _INSTANT.sub("at", _ID.sub(lambda found: seen.setdefault(found[0], f"id-{len(seen)}"), text))

    def renamed(part: Any) -> Any:
        if isinstance(part, dict):
            return {name(key): renamed(item) for key, item in part.items()}
        if isinstance(part, list):
            return [renamed(item) for item in part]
        return name(part) if isinstance(part, str) else part

    return renamed(as_json(value))


class Scripted(GenericFakeChatModel):
    """A model that gives its answers by the number of AI messages that it has seen, so that each run gets the same."""

    answers: list[AIMessage]
    messages: Any = ()

    def _generate(self, messages: list[BaseMessage], *_args: Any, **_more: Any) -> ChatResult:
        CALLS["model"] += 1
        answer = self.answers[sum(isinstance(one, AIMessage) for one in messages) % len(self.answers)]
        return ChatResult(generations=[ChatGeneration(message=answer.model_copy(deep=True))])

    def _stream(self, messages: list[BaseMessage], *_args: Any, **_more: Any) -> Iterator[ChatGenerationChunk]:
        answer = self._generate(messages).generations[0].message
        assert isinstance(answer, AIMessage)
        for word in re.findall(r"\S+\s*", str(answer.content)):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        for index, call in enumerate(answer.tool_calls):
            part = tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[part]))

    def bind_tools(self, *_args: Any, **_more: Any) -> "Scripted":
        return self


class NodeStarts(AsyncCallbackHandler):
    """Counts the starts of nodes by their threads, those in subgraphs included."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    async def on_chain_start(self, *_args: Any, metadata: Any = None, name: Any = None, **_more: Any) -> None:
        if name is not None and name == (metadata or {}).get("langgraph_node"):
            await self.started(metadata["thread_id"])

    async def started(self, thread: str) -> None:
        self.counts[thread] += 1


def anew(graph: Any) -> Any:
    """The graph with an empty store and cache, where it has any."""
    store = {"store": InMemoryStore()} if graph.store else {}
    cache = {"cache": InMemoryCache()} if graph.cache else {}
    return graph.copy({**store, **cache})


class Bare:
    """The graph with LangGraph alone: `ainvoke` with checkpoints in memory."""

    def __init__(self, graph: Any) -> None:
        self.graph = anew(graph).copy({"checkpointer": InMemorySaver()})
        self.config = {"configurable": {"thread_id": str(uuid4()), "user_id": None}}

    async def run(self, turn: Mapping[str, Any]) -> Seen:
        before = CALLS.copy()
        seen = Seen()
        config, options = self._call(turn)
        try:
            seen.output = plain(await self.graph.ainvoke(input_of(turn), config, **options))
        except Exception as error:
            seen.error = f"{type(error).__name__}: {error}"
        seen.calls = CALLS - before
        return seen

    async def stream(self, turn: Mapping[str, Any], modes: Sequence[StreamMode], name: str, task_id: str) -> Streamed:
        """What is streamed with subgraphs, in a run with the config that a worker gives a task of that name and id."""
        given, before = input_of(turn), CALLS.copy()
        if isinstance(given, Command) and given.resume is not None:  # a worker names the question that it answers
            asked = (await self.graph.aget_state(self.config)).interrupts
            given = replace(given, resume={one.id: given.resume for one in asked})
        config, options = self._call(turn)
        config["configurable"] = {**options.get("context", {}), **config["configurable"]}  # as LangGraph Server does
        config["configurable"] |= {"task_id": task_id}
        config |= {"metadata": {"task_id": task_id}, "run_name": name}
        stream = partial(self.graph.astream, stream_mode=[mode.value for mode in modes], durability="sync")
        if list(modes) == [StreamMode.EVENTS]:
            stream = partial(self.graph.astream_events, version="v2", stream_mode=[])
        found = Streamed()
        try:
            async for part in stream(given, config, subgraphs=True, **options):
                namespace, mode, data = part if isinstance(part, tuple) else ((), StreamMode.EVENTS.value, part)
                found.parts.setdefault(mode, []).append(as_json([namespace, data]))  # what comes later may change it
        except Exception:  # what came before counts
            found.failed = True
        found.calls = CALLS - before
        return found

    def _call(self, turn: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config and the options of a turn's run."""
        asked = turn.get("config", {})
        configurable = {**asked.get("configurable", {}), **self.config["configurable"]}
        options = {name: turn[name] for name in ("context", "interrupt_before", "interrupt_after") if name in turn}
        if self.graph.context_schema and "context" not in options:
            options["context"] = {}  # as LangGraph Server does
        return {**asked, **self.config, "configurable": configurable}, options

    async def state(self) -> Any:
        return state_of(await self.graph.aget_state(self.config))


class Served:
    """The graph through a worker with default settings."""

    def __init__(self, bench: "Bench", name: str) -> None:
        self.bench, self.name, self.thread_id = bench, name, str(uuid4())
        self.last: TaskResult | None = None

    async def run(self, turn: Mapping[str, Any], **fields: Any) -> Seen:
        before = CALLS.copy()
        result = await self.submit({"thread_id": self.thread_id, **turn, **fields})
        seen = Seen(plain(result.result), calls=CALLS - before)
        seen.error = result.error.message if result.error else None
        return seen

    async def stream(self, turn: Mapping[str, Any], modes: Sequence[StreamMode], task_id: str) -> Streamed:
        """What the events of a task tell that streams these modes, with subgraphs."""
        before = CALLS.copy()
        fields = {"task_id": task_id, "stream": list(modes), "stream_subgraphs": True}
        result = await self.submit({"thread_id": self.thread_id, **turn, **fields})
        found = Streamed(failed=result.status is State.ERROR, calls=CALLS - before)
        async for event in self.bench.client.events(task_id):
            if event.type in {*modes}:
                data = event.data
                shown = [data["message"], data["metadata"]] if event.type == StreamMode.MESSAGES else data["data"]
                found.parts.setdefault(event.type, []).append([data.get("namespace", []), shown])
        return found

    async def submit(self, turn: Mapping[str, Any]) -> TaskResult:
        given = {"input": None, "graph": self.name, **turn}
        receipt = await self.bench.client.submit(**given)
        assert not receipt.warnings
        self.last = await self.bench.client.wait(receipt.task_id, WAIT_S)
        return self.last

    async def state(self) -> Any:
        graph = self.bench.graphs[self.name]
        return state_of(await graph.aget_state({"configurable": {"thread_id": self.thread_id}}))


async def forget(redis: Any, task_id: str, thread_id: str) -> None:
    """Forget a task, but not its checkpoints: the same task again runs as if its worker had died before its end."""
    for key in ("agent:task:", "agent:result:", "agent:events:", "rq:job:"):
        await redis.delete(key + task_id)
    await redis.delete(f"agent:thread:{thread_id}", f"agent:question:{thread_id}")
    async for key in redis.scan_iter(match="agent:ids:*:*"):  # ids that are remembered
        await redis.hdel(key, task_id)


@dataclass
class Bench:
    """One worker for all cases of a module."""

    client: AsyncClient
    graphs: Mapping[str, Any]

    def serve(self, name: str) -> Served:
        return Served(self, name)


@asynccontextmanager
async def bench(redis_url: str, graphs: Mapping[str, Any]) -> AsyncIterator[Bench]:
    """Serve `graphs` by one worker, on an empty Redis, while the block runs."""
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    graphs = {name: anew(graph) for name, graph in graphs.items()}
    async with (
        worker(redis_url, graphs, checkpoints=True, concurrency=20) as running,
        AsyncClient(redis_url) as client,
    ):
        served = {name: loaded.graph for name, loaded in running._context.graphs.items()}
        yield Bench(client, served)


def chain(state: type, *nodes: Any, **schemas: Any) -> Any:
    """A graph that runs its nodes one after the other."""
    builder = StateGraph(state, **schemas)
    names = [node.__name__ for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], names, strict=False):
        builder.add_edge(before, after)
    return builder.compile()


def input_of(turn: Mapping[str, Any]) -> Any:
    """What `ainvoke` takes for a turn."""
    command = turn.get("command")
    if command is None:
        return turn.get("input")
    goto = command.get("goto", ())
    goto = goto if isinstance(goto, list | tuple) else [goto]
    sends = [one if isinstance(one, str) else Send(one["node"], one["input"]) for one in goto]
    update = command.get("update")
    if isinstance(update, list):
        update = [tuple(pair) for pair in update]
    return Command(resume=command.get("resume"), update=update, goto=sends)


def state_of(snapshot: Any) -> Any:
    """What two runs must agree on of a thread's state."""
    return plain(
        {"values": snapshot.values, "next": snapshot.next, "asked": [one.value for one in snapshot.interrupts]}
    )

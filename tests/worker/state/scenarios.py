"""What LangGraph's savers are for, as scenarios: each runs graphs on a saver and returns all that can be seen of it.

Two savers agree if their scenarios return the same. Ids and times are replaced by the order in which they turn up.
"""

import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, StateSnapshot, interrupt

from tests.waiting import until

Saver = BaseCheckpointSaver[Any]
Scenario = Callable[[Saver], Awaitable[Any]]

LONG = "a text that is too long to be kept inside of a checkpoint; " * 6


def extend(state: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    """Reduce a delta channel."""
    return [*state, *(one for some in writes for one in some)]


class Steps(TypedDict, total=False):
    """A list that grows, and values that stay."""

    steps: Annotated[list[str], operator.add]
    note: str


class Deltas(TypedDict, total=False):
    """A delta channel with a snapshot at every fourth update, and a plain one."""

    messages: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]
    count: Annotated[int, operator.add]


def thread(name: str = "t", **more: Any) -> dict[str, Any]:
    """Return the config of a thread."""
    return {"configurable": {"thread_id": name, **more}}


def step(name: str, **more: Any) -> Any:
    """Make a node that adds its name."""

    async def node(_state: Any) -> Any:
        return {"steps": [name], **more}

    node.__name__ = name
    return node


async def ask(state: Any) -> Any:
    """Ask, and add the answer."""
    return {"steps": [interrupt({"asked after": len(state["steps"])})]}


def chain(*nodes: Any, of: Any = Steps) -> StateGraph[Any]:
    """Make a graph of nodes, one after the other."""
    builder = StateGraph(of)
    names = [getattr(node, "__name__", None) or node.name for node in nodes]
    for before, name, node in zip([START, *names], names, nodes, strict=False):
        builder.add_node(name, node).add_edge(before, name)
    return builder


class Seen:
    """Replaces ids by the order in which they turn up."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def id(self, one: Any) -> Any:
        """Return the stand-in of an id."""
        return one and self._ids.setdefault(str(one), f"id {len(self._ids)}")

    def namespace(self, one: str) -> str:
        """Return a namespace with its ids replaced."""
        parts = (part.partition(":") for part in one.split("|"))
        return "|".join(node + colon + str(self.id(id_) or "") for node, colon, id_ in parts)

    def config(self, config: Any) -> Any:
        """Return what a config names."""
        found = (config or {}).get("configurable", {})
        return found and (self.namespace(found.get("checkpoint_ns", "")), self.id(found.get("checkpoint_id")))

    def state(self, state: Any) -> dict[str, Any]:
        """Return a state as it is seen."""
        metadata = dict(state.metadata or {})
        parents = {self.namespace(name): self.id(one) for name, one in metadata.pop("parents", {}).items()}
        return {
            "values": state.values,
            "next": state.next,
            "config": self.config(state.config),
            "parent": self.config(state.parent_config),
            "metadata": metadata,
            "parents": parents,
            "interrupts": [one.value for one in state.interrupts],
            "tasks": [
                (
                    self.id(task.id),
                    task.name,
                    repr(task.error),
                    [one.value for one in task.interrupts],
                    task.result,
                    self.state(task.state) if isinstance(task.state, StateSnapshot) else self.config(task.state),
                )
                for task in state.tasks
            ],
        }

    async def history(self, graph: Any, config: Any, **options: Any) -> list[Any]:
        """Return the history of a thread, oldest first, so that ids turn up in order."""
        states = [state async for state in graph.aget_state_history(config, **options)]
        return [self.state(state) for state in reversed(states)]


async def history_of_a_thread_with_two_runs(saver: Saver) -> Any:
    """Two runs, with what each node wrote, and configurable keys in the metadata."""
    graph, seen = chain(step("one"), step("two", note=LONG), step("three")).compile(checkpointer=saver), Seen()
    config = {**thread(), "metadata": {"of": "run"}}
    config["configurable"] |= {"task_id": "task 1", "limit": 3, "__hidden": 1}
    for number in range(2):
        await graph.ainvoke({"steps": [f"input {number}"]}, config)
    return await seen.history(graph, thread())


async def history_in_pages(saver: Saver) -> Any:
    """Pages before a checkpoint, filters, limits, and all namespaces."""
    graph, seen = chain(*map(step, "abcde")).compile(checkpointer=saver), Seen()
    for number in range(3):
        await graph.ainvoke({"steps": [str(number)]}, thread())
    await graph.ainvoke({"steps": []}, thread("another"))
    whole = [one async for one in saver.alist(thread(checkpoint_ns=""))]
    order = {one.checkpoint["id"]: at for at, one in enumerate(whole)}
    pages = []
    before = None
    while page := [one async for one in saver.alist(thread(checkpoint_ns=""), before=before, limit=4)]:
        pages.append([order[one.checkpoint["id"]] for one in page])
        before = page[-1].config
    inputs = [one async for one in saver.alist(thread(), filter={"source": "input"})]
    second = [one async for one in saver.alist(thread(), filter={"source": "loop", "step": 3}, limit=1)]
    named = [one async for one in saver.alist(whole[5].config)]
    none = [one async for one in saver.alist(thread(), limit=0)]
    threads = {one.config["configurable"]["thread_id"] async for one in saver.alist(None)}
    found = [[order[one.checkpoint["id"]] for one in some] for some in (inputs, second, named, none)]
    return pages, found, threads, await seen.history(graph, thread(), limit=3, filter={"step": 2})


async def fork_and_both_branches(saver: Saver) -> Any:
    """Fork twice from an old checkpoint, by update and by run; then read all branches, with long and short values."""
    graph = chain(step("one", note=LONG), step("two", note="short"), step("three", note=LONG[::-1])).compile(
        checkpointer=saver
    )
    seen = Seen()
    await graph.ainvoke({"steps": ["start"]}, thread())
    states = [state async for state in graph.aget_state_history(thread())]
    after_one = next(state for state in states if state.next == ("two",))
    ends = [await graph.ainvoke(None, after_one.config)]
    forked = await graph.aupdate_state(after_one.config, {"steps": ["changed"], "note": LONG + "!"})
    ends.append(await graph.ainvoke(None, forked))
    ends.append(await graph.ainvoke({"steps": ["anew"]}, after_one.config))
    old = [await graph.aget_state(state.config) for state in states]
    return ends, [seen.state(state) for state in old], await seen.history(graph, thread())


async def answers_to_questions(saver: Saver) -> Any:
    """Two questions of parallel nodes, answered one by one; the later run's writes lie on the earlier checkpoint."""
    builder = StateGraph(Steps)
    for name in ("left", "right"):
        builder.add_node(name, ask).add_edge(START, name).add_edge(name, "end")
    graph, seen = builder.add_node(step("end")).compile(checkpointer=saver), Seen()
    await graph.ainvoke({"steps": ["start"]}, thread())
    states = [seen.state(await graph.aget_state(thread()))]
    for answer in ("first", "second"):
        asked = (await graph.aget_state(thread())).interrupts
        await graph.ainvoke(Command(resume={asked[0].id: answer}), thread())
        states.append(seen.state(await graph.aget_state(thread())))
    return states, await seen.history(graph, thread())


async def error_and_going_on(saver: Saver) -> Any:
    """A node fails beside one that succeeds; its error is kept as text, and only it runs again."""
    calls: list[str] = []

    async def good(_state: Any) -> Any:
        calls.append("good")
        return {"steps": ["good"]}

    async def is_good_saved() -> bool:
        saved = await saver.aget_tuple(thread())
        return bool(saved and saved.pending_writes)

    async def bad(_state: Any) -> Any:
        calls.append("bad")
        if calls.count("bad") == 1:
            await until(is_good_saved)
            raise ValueError("once")
        return {"steps": ["bad"]}

    builder = StateGraph(Steps).add_node(good).add_node(bad).add_edge(START, "good").add_edge(START, "bad")
    graph, seen = builder.compile(checkpointer=saver), Seen()
    try:
        await graph.ainvoke({"steps": ["start"]}, thread(), durability="sync")
    except ValueError:
        calls.append("failed")
    failed = seen.state(await graph.aget_state(thread()))
    await graph.ainvoke(None, thread(), durability="sync")
    return failed, sorted(calls), await seen.history(graph, thread())


def _with_subgraph(saver: Saver, *, is_stateful: bool) -> Any:
    inner = chain(step("inner one"), ask).compile(checkpointer=True if is_stateful else None, name="inner")
    builder = StateGraph(Steps).add_node("inner", inner).add_node(step("end"))
    return builder.add_edge(START, "inner").add_edge("inner", "end").compile(checkpointer=saver)


async def _subgraph(saver: Saver, *, is_stateful: bool) -> Any:
    graph, seen = _with_subgraph(saver, is_stateful=is_stateful), Seen()
    states = []
    for number in range(2):
        await graph.ainvoke({"steps": [str(number)]}, thread())
        states.append(seen.state(await graph.aget_state(thread(), subgraphs=True)))
        await graph.ainvoke(Command(resume=f"answer {number}"), thread())
    first = [state async for state in graph.aget_state_history(thread()) if state.next == ("inner",)][-1]
    replayed = await graph.ainvoke(Command(resume="another"), first.config)
    states.append(seen.state(await graph.aget_state(first.config, subgraphs=True)))
    spaces = [one.config["configurable"]["checkpoint_ns"].partition(":")[0] async for one in saver.alist(thread())]
    return states, replayed, sorted(spaces), await seen.history(graph, thread())


async def subgraph_of_calls(saver: Saver) -> Any:
    """Each call of a subgraph has its namespace: interrupted, resumed, replayed from the first run."""
    return await _subgraph(saver, is_stateful=False)


async def stateful_subgraph(saver: Saver) -> Any:
    """A subgraph that remembers its own state between calls."""
    return await _subgraph(saver, is_stateful=True)


async def fan_out(saver: Saver) -> Any:
    """Twelve nodes by Send in one step; what they wrote comes in the order of their paths."""

    async def worker(state: Any) -> Any:
        return {"steps": [f"{state['note']}"]}

    builder = StateGraph(Steps).add_node(worker).add_node(step("end")).add_edge("worker", "end")
    builder.add_conditional_edges(START, lambda _: [Send("worker", {"note": str(i)}) for i in range(12)])
    graph, seen = builder.compile(checkpointer=saver), Seen()
    end = await graph.ainvoke({"steps": []}, thread())
    saved = [one async for one in saver.alist(thread())]
    writes = [[(channel, value) for _, channel, value in one.pending_writes or []] for one in saved]
    return end, [[one for one in some if one[0] == "steps"] for some in writes], await seen.history(graph, thread())


async def talk(state: Any) -> Any:
    """Answer, in a delta channel."""
    return {"messages": [f"answer {len(state['messages'])}"], "count": 1}


async def delta_channels(saver: Saver) -> Any:
    """Turns of a delta channel across snapshots: every old state, a fork, and the old branch after it."""
    graph = chain(talk, of=Deltas).compile(checkpointer=saver)
    for number in range(7):
        await graph.ainvoke({"messages": [f"question {number}"], "count": 0}, thread())
    states = [state async for state in graph.aget_state_history(thread())]
    middle = states[len(states) // 2]
    forked = await graph.ainvoke({"messages": ["fork"]}, middle.config)
    old = [await graph.aget_state(state.config) for state in states]
    updated = await graph.aupdate_state(thread(), {"messages": ["updated"]})
    latest = [(await graph.aget_state(config)).values for config in (updated, thread())]
    return [state.values for state in states], forked, [state.values for state in old], latest


async def updates_by_hand(saver: Saver) -> Any:
    """update_state: as a node, of a new thread, several at once, a copy, and to the end."""
    graph, seen = chain(step("one"), step("two"), step("three")).compile(checkpointer=saver), Seen()
    await graph.aupdate_state(thread("new"), {"steps": ["by hand"], "note": LONG}, as_node="one")
    ends = [await graph.ainvoke(None, thread("new"))]
    await graph.ainvoke({"steps": ["start"]}, thread())
    await graph.aupdate_state(thread(), {"steps": ["again"]}, as_node="one")
    ends.append(await graph.ainvoke(None, thread()))
    copied = (await graph.aget_state(thread())).config
    await graph.aupdate_state(copied, None, as_node="__copy__")
    await graph.aupdate_state(thread(), None, as_node=END)
    return ends, await seen.history(graph, thread("new")), await seen.history(graph, thread())


async def only_at_exit(saver: Saver) -> Any:
    """Checkpoints written at the end only, and in the background."""
    graph, seen = chain(step("one", note=LONG), ask, step("two")).compile(checkpointer=saver), Seen()
    ends = []
    for durability in ("exit", "async"):
        await graph.ainvoke({"steps": ["start"]}, thread(durability), durability=durability)
        ends.append(await graph.ainvoke(Command(resume="answer"), thread(durability), durability=durability))
    return ends, await seen.history(graph, thread("exit")), await seen.history(graph, thread("async"))


SCENARIOS: tuple[Scenario, ...] = (
    history_of_a_thread_with_two_runs,
    history_in_pages,
    fork_and_both_branches,
    answers_to_questions,
    error_and_going_on,
    subgraph_of_calls,
    stateful_subgraph,
    fan_out,
    delta_channels,
    updates_by_hand,
    only_at_exit,
)

"""Kinds of control flow: branches, loops, fan-outs, commands, subgraphs, retries."""

import operator
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send

from tests.langgraph.bench import CALLS, Case, chain


class Said(TypedDict):
    said: Annotated[list, operator.add]


class Looping(TypedDict):
    n: int
    said: Annotated[list, operator.add]


class Words(TypedDict):
    words: list[str]
    said: Annotated[list, operator.add]


class Word(TypedDict):
    word: str


FAILURES: Counter[str] = Counter()


def says(word: str) -> Any:
    async def say(_state: Any) -> dict:
        CALLS[word] += 1
        return {"said": [word]}

    say.__name__ = word
    return say


one, two, three, last = map(says, ("one", "two", "three", "last"))


async def join(state: Said) -> dict:
    return {"said": [sorted(map(str, state["said"]))]}


def branch_on_length(state: Said) -> Literal["two", "three"]:
    return "two" if len(state["said"]) % 2 else "three"


def both(_state: Said) -> Sequence[str]:
    return ["two", "three"]


def branching(path: Any, path_map: Any = None) -> Any:
    builder = StateGraph(Said).add_node(one).add_node(two).add_node(three).add_edge(START, "one")
    builder.add_conditional_edges("one", path, path_map)
    return builder.compile()


def diamond(*, defer: bool = False, waits: bool = False) -> Any:
    builder = StateGraph(Said).add_node(one).add_node(two).add_node(three).add_node("join", join, defer=defer)
    builder.add_node(last).add_edge(START, "one").add_edge(START, "two").add_edge("two", "three")
    if waits:
        builder.add_edge(["one", "three"], "join")
    else:
        builder.add_edge("one", "join").add_edge("three", "join")
    return builder.add_edge("join", "last").compile()


async def count_up(state: Looping) -> dict:
    return {"n": state["n"] + 1, "said": [state["n"]]}


def until_three(state: Looping) -> str:
    return END if state["n"] >= 3 else "count_up"


def loop() -> Any:
    builder = StateGraph(Looping).add_node(count_up).add_edge(START, "count_up")
    return builder.add_conditional_edges("count_up", until_three).compile()


async def measure(state: Word) -> dict:
    CALLS["measure"] += 1
    return {"said": [[state["word"], len(state["word"])]]}


def to_words(state: Words) -> list[Send]:
    return [Send("measure", {"word": word}) for word in state["words"]]


def map_reduce() -> Any:
    builder = StateGraph(Words).add_node(measure).add_node(join)
    builder.add_conditional_edges(START, to_words, ["measure"]).add_edge("measure", "join")
    return builder.compile()


async def choose(state: Said) -> Command[Literal["two", "three"]]:
    return Command(goto="two" if state["said"] else "three", update={"said": ["chose"]})


async def send_both(_state: Said) -> Command[Literal["two", "three"]]:
    return Command(goto=[Send("two", {"said": []}), "three"], update={"said": ["sent"]})


def commanding(node: Any) -> Any:
    return StateGraph(Said).add_node(node).add_node(two).add_node(three).add_edge(START, node.__name__).compile()


async def leave(_state: Said) -> Command:
    return Command(graph=Command.PARENT, goto="three", update={"said": ["left"]})


def with_inner(inner: Any, *, parent: bool = False) -> Any:
    builder = StateGraph(Said).add_node(one).add_node("inner", inner).add_node(three)
    builder.add_edge(START, "one").add_edge("one", "inner")
    if not parent:
        builder.add_edge("inner", "three")
    return builder.compile()


def inner(**options: Any) -> Any:
    return (
        StateGraph(Said).add_node(two).add_node(join).add_edge(START, "two").add_edge("two", "join").compile(**options)
    )


async def translate(state: Said) -> dict:
    result = await map_reduce().ainvoke({"words": ["lease", "token"], "said": []})
    return {"said": [result["said"], len(state["said"])]}


def translate_sync(_state: Said) -> dict:
    return {"said": [chain(Said, say_sync, say_sync_again).invoke({"said": ["sync"]})["said"]]}


async def count_below(state: Said) -> dict:
    return {"said": [len(state["said"])]}


def stateful() -> Any:
    below = StateGraph(Said).add_node(count_below).add_edge(START, "count_below").compile(checkpointer=True)

    async def call(_state: Said) -> dict:
        return {"said": [(await below.ainvoke({"said": ["turn"]}))["said"]]}

    return chain(Said, call)


async def fail_twice(_state: Said, config: RunnableConfig) -> dict:
    key = config["configurable"]["thread_id"]
    FAILURES[key] += 1
    if FAILURES[key] <= 2:
        raise ConnectionError("not yet")
    return {"said": [FAILURES[key]]}


def retrying() -> Any:
    policy = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False)
    return StateGraph(Said).add_node("fail", fail_twice, retry_policy=policy).add_edge(START, "fail").compile()


def caching() -> Any:
    builder = StateGraph(Said).add_node("two", two, cache_policy=CachePolicy())
    builder.add_node("again", two, cache_policy=CachePolicy()).add_edge(START, "two").add_edge("two", "again")
    return builder.compile(cache=InMemoryCache())


async def fail(_state: Said) -> dict:
    raise ValueError("no such thing")


async def recover(_state: Said, error: NodeError) -> Command[Literal["two"]]:
    CALLS["recover"] += 1
    return Command(update={"said": [error.node]}, goto="two")


def recovering() -> Any:
    builder = StateGraph(Said).add_node(one).add_node("fail", fail, error_handler=recover).add_node(two)
    return builder.add_edge(START, "one").add_edge("one", "fail").compile()


def subgraphs_side_by_side() -> Any:
    builder = StateGraph(Said).add_node("left", inner()).add_node("right", chain(Said, one, three)).add_node(last)
    builder.add_edge(START, "left").add_edge(START, "right").add_edge(["left", "right"], "last")
    return builder.compile()


def to_inner(_state: Said) -> list[Send]:
    return [Send("inner", {"said": [word]}) for word in ("a", "b")]


def sends_to_subgraph() -> Any:
    builder = (
        StateGraph(Said).add_node("inner", inner()).add_node(last).add_conditional_edges(START, to_inner, ["inner"])
    )
    return builder.add_edge("inner", "last").compile()


def say_sync(state: Said) -> dict:
    return {"said": [f"sync {len(state['said'])}"]}


def say_sync_again(_state: Said) -> dict:
    return {"said": ["again"]}


class Callable:
    """A node that is an object."""

    async def __call__(self, _state: Said) -> dict:
        return {"said": ["object"]}


async def say_word(_state: Said, word: str) -> dict:
    return {"said": [word]}


def of_many_kinds() -> Any:
    builder = StateGraph(Said).add_node("sync", say_sync).add_node("lambda", lambda _state: {"said": ["lambda"]})
    builder.add_node("object", Callable()).add_node("partial", partial(say_word, word="partial"))
    builder.add_node("runnable", RunnableLambda(say_sync) | RunnableLambda(lambda update: update))
    names = (START, "sync", "lambda", "object", "partial", "runnable")
    for before, after in pairwise(names):
        builder.add_edge(before, after)
    return builder.compile()


def sequence() -> Any:
    return StateGraph(Said).add_sequence([one, two, three]).add_edge(START, "one").compile()


def entry_by_condition() -> Any:
    builder = StateGraph(Said).add_node(two).add_node(three)
    return builder.add_conditional_edges(START, branch_on_length).compile()


NEW: dict = {"input": {"said": []}}
ODD: dict = {"input": {"said": ["x"]}}

CASES: dict[str, Case] = {
    "sequence": Case(sequence(), [NEW, NEW]),
    "branch": Case(branching(branch_on_length), [NEW, ODD, ODD]),
    "branch with a map": Case(branching(lambda _state: True, {True: "two", False: "three"}), [NEW]),
    "branch to two nodes": Case(branching(both), [NEW]),
    "branch to the end": Case(branching(lambda _state: END, ["two", END]), [NEW]),
    "entry by condition": Case(entry_by_condition(), [NEW, ODD]),
    "diamond": Case(diamond(), [NEW, NEW]),
    "diamond that waits for all": Case(diamond(waits=True), [NEW, NEW]),
    "deferred node": Case(diamond(defer=True), [NEW, NEW]),
    "loop": Case(loop(), [{"input": {"n": 0, "said": []}}, {"input": {"n": 2}}]),
    "loop over the recursion limit": Case(
        loop(), [{"input": {"n": -19, "said": []}, "config": {"recursion_limit": 9}}], fails=True, forgets=True
    ),
    "map and reduce": Case(map_reduce(), [{"input": {"words": ["a", "bb", "ccc"], "said": []}}] * 2),
    "nothing to map": Case(map_reduce(), [{"input": {"words": [], "said": []}}]),
    "command from outside": Case(sequence(), [NEW, {"command": {"goto": "two", "update": {"said": ["more"]}}}]),
    "command from outside sends": Case(
        sequence(), [NEW, {"command": {"goto": [{"node": "three", "input": {"said": []}}, "two"]}}]
    ),
    "command goes to a node": Case(commanding(choose), [NEW, ODD]),
    "command sends to two": Case(commanding(send_both), [NEW]),
    "subgraph as a node": Case(with_inner(inner()), [NEW, NEW]),
    "subgraph in a subgraph": Case(with_inner(with_inner(inner())), [NEW]),
    "subgraph leaves for its parent": Case(with_inner(chain(Said, two, leave), parent=True), [NEW]),
    "subgraph called by a node": Case(chain(Said, one, translate), [NEW, NEW]),
    "subgraph called by a sync node": Case(chain(Said, one, translate_sync), [NEW]),
    "subgraph with a memory of its own": Case(stateful(), [NEW, NEW, NEW]),
    "subgraphs side by side": Case(subgraphs_side_by_side(), [NEW]),
    "subgraph for each of a list": Case(sends_to_subgraph(), [NEW, NEW]),
    "error handler": Case(recovering(), [NEW]),
    "retry policy": Case(retrying(), [NEW]),
    "node that fails": Case(chain(Said, one, fail, two), [NEW], fails=True),
    "cache policy": Case(caching(), [NEW], keeps=True),
    "nodes of many kinds": Case(of_many_kinds(), [NEW]),
}

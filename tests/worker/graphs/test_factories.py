"""Factories of langgraph.json's graphs: what they are called with, when, and what is left afterwards."""

import asyncio
import sys

import pytest
from langgraph.store.memory import InMemoryStore

from langgraph_rq.shared.graphs.input import GraphInput
from langgraph_rq.worker.graphs.factories import Run
from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import GraphLoadError, read_langgraph_json

CODE = """
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_store
from langgraph.graph import END, START, StateGraph
from langgraph_sdk.runtime import ServerRuntime

calls, left = [], []

class State(TypedDict, total=False):
    name: str
    greeting: str

@dataclass
class Context:
    word: str = "servus"

def build(word):
    calls.append(word)
    def greet(state):
        return {"greeting": f"{word} {state['name']}"}
    return StateGraph(State).add_node("greet", greet).add_edge(START, "greet").add_edge("greet", END)

def word_of(config):
    return config["configurable"].get("word", "none")
"""

FORMS = {
    "def graph(config): return build(word_of(config))": "moin",
    "def graph(config: RunnableConfig): return build(word_of(config)).compile()": "moin",
    "async def graph(anything): return build(word_of(anything))": "moin",
    "def graph(config=None): return build(word_of(config))": "moin",
    "def graph(config, *, tools=(), model='m'): return build(word_of(config))": "moin",
    "def graph(config, /): return build(word_of(config))": "moin",
    "class Make:\n def __call__(self, config): return build(word_of(config))\ngraph = Make()": "moin",
    "@contextlib.contextmanager\ndef graph(config): yield build(word_of(config)); left.append(1)": "moin",
    "@contextlib.asynccontextmanager\nasync def graph(config): yield build(word_of(config)); left.append(1)": "moin",
    "def graph(runtime: ServerRuntime): return build(runtime.access_context)": "threads.create_run",
    "def graph(runtime: 'ServerRuntime'): return build(runtime.access_context)": "threads.create_run",
    "def graph(run: Annotated[ServerRuntime, 'x']): return build(run.access_context)": "threads.create_run",
    "def graph(r: ServerRuntime, config): return build(r.access_context + word_of(config))": "threads.create_runmoin",
    "def graph(config, r: ServerRuntime[Context]): return build(r.execution_runtime.context.word)": "hallo",
    "def graph(r: ServerRuntime): return build(r.execution_runtime.context['word'])": "hallo",
    "def graph(r: ServerRuntime): return build(r.ensure_user().identity + r.user['display_name'])": "adaada",
    "def graph(r: ServerRuntime): return build(type(r.store).__name__)": "InMemoryStore",
    "def graph(config): return build(type(get_store()).__name__ + word_of(get_config()))": "InMemoryStoremoin",
}


def run(word="moin"):
    config = {"configurable": {"thread_id": "t", "word": word}, "metadata": {"task_id": "1"}, "run_name": "g"}
    return Run(config, {"word": "hallo"}, "ada")


def loading(project, code):
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=CODE + code)
    return load_graphs(read_langgraph_json(path), checkpointer=None, store=InMemoryStore())


def module():
    return next(sys.modules[name] for name in sys.modules if name.startswith("graph_agent_"))


async def greet(loaded, run):
    async with loaded.open(run) as opened:
        return (await opened.graph.ainvoke({"name": "Eve"}, run.config))["greeting"]


@pytest.mark.parametrize("code", FORMS)
async def test_factory_gets_what_it_takes_of_the_run(code, project):
    async with loading(project, code) as graphs:
        assert await greet(graphs.by_name["g"], run()) == f"{FORMS[code]} Eve"


@pytest.mark.parametrize("form", ["contextlib.contextmanager\ndef", "contextlib.asynccontextmanager\nasync def"])
async def test_each_run_gets_a_graph_of_its_own_which_is_left_after_it(form, project):
    code = f"@{form} graph(config):\n word = word_of(config)\n yield build(word)\n left.append(word)"
    async with loading(project, code) as graphs:
        assert (module().calls, module().left) == (["none"], ["none"])  # at boot, for the schemas
        words = [f"w{number}" for number in range(5)]
        said = await asyncio.gather(*(greet(graphs.by_name["g"], run(word)) for word in words))
        assert said == [f"{word} Eve" for word in words]
        assert sorted(module().left) == ["none", *words]


async def test_factory_that_takes_nothing_is_called_once(project):
    async with loading(project, "def graph(): return build('once')") as graphs:
        loaded = graphs.by_name["g"]
        assert [await greet(loaded, run()) for _ in range(3)] == ["once Eve"] * 3
        assert module().calls == ["once"]


async def test_runtime_says_that_nothing_runs_where_only_the_schemas_are_wanted(project):
    code = "def graph(r: ServerRuntime): return build((r.access_context, r.execution_runtime, r.user))"
    async with loading(project, code) as graphs:
        assert module().calls == [("assistants.read", None, None)]
        assert graphs.by_name["g"].input == GraphInput(("name", "greeting"))
        assert graphs.warnings == ()


async def test_config_that_a_factory_changes_is_not_the_runs(project):
    code = "def graph(config):\n config['configurable']['word'] = 'x'\n config['run_name'] = 'x'\n return build('hi')"
    one = run()
    async with loading(project, code) as graphs:
        await greet(graphs.by_name["g"], one)
    assert one == run()


async def test_factory_that_needs_a_run_only_costs_the_check_at_the_door(project):
    async with loading(project, "def graph(config): return build(config['configurable']['word'])") as graphs:
        (warning,) = graphs.warnings
        assert "failed without a run, so that its input cannot be checked at the door: KeyError: 'word'" in warning
        assert await greet(graphs.by_name["g"], run()) == "moin Eve"


async def test_every_graph_of_a_factory_is_prepared(project):
    prepared = []
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=CODE + "def graph(config): return build('hi')")
    async with (
        load_graphs(read_langgraph_json(path), checkpointer=None, prepare=prepared.append) as graphs,
        graphs.by_name["g"].open(run()) as opened,
    ):
        assert prepared == [opened.graph]


REFUSED = {
    "def graph(a, b): ...": "got: (a, b)",
    "def graph(a: ServerRuntime, b: ServerRuntime): ...": "got: (a: ServerRuntime, b: ServerRuntime)",
    "def graph(config, b, r: ServerRuntime): ...": "got: (config, b, r: ServerRuntime)",
}


@pytest.mark.parametrize("code", REFUSED)
async def test_factory_that_needs_other_arguments_is_refused(code, project):
    with pytest.raises(GraphLoadError, match="expected a factory to take nothing, a config, a runtime") as caught:
        async with loading(project, code):
            pass
    assert str(caught.value).endswith(REFUSED[code])


async def test_factory_that_makes_no_graph_is_refused_at_boot(project):
    with pytest.raises(
        GraphLoadError, match="expected a compiled graph, a StateGraph or a factory of either, got: str"
    ):
        async with loading(project, "def graph(config): return 'no graph'"):
            pass

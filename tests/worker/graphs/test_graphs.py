"""langgraph.json as other people write it: the graphs that are loaded, and those that are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.graphs.input import GraphInput
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.graphs.factories import Run
from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import BUILD_KEYS, GraphLoadError, read_langgraph_json

REPOSITORY = Path(__file__).parents[3]

GRAPH = """
from typing import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict, total=False):
    name: str
    greeting: str

def greet(state):
    return {"greeting": f"hello {state['name']}"}

builder = StateGraph(State)
builder.add_node("greet", greet)
builder.add_edge(START, "greet")
builder.add_edge("greet", END)
graph = builder.compile()
"""


async def run(path, name="g", **graph_input):
    async with (
        load_graphs(read_langgraph_json(path), checkpointer=None) as graphs,
        graphs.by_name[name].open(Run({"configurable": {}})) as opened,
    ):
        return await opened.graph.ainvoke(graph_input or {"name": "Ada"})


async def refusal(path):
    with pytest.raises(GraphLoadError) as caught:
        async with load_graphs(read_langgraph_json(path), checkpointer=None):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


FORMS = {
    "a compiled graph": "",
    "a StateGraph": "graph = builder",
    "a factory": "def graph(): return builder",
    "a factory that takes a config": "def graph(config): assert 'configurable' in config; return builder.compile()",
    "an async factory": "async def graph(): return builder",
    "a context manager": "import contextlib\n@contextlib.contextmanager\ndef graph(): yield builder",
    "an async context manager": "import contextlib\n@contextlib.asynccontextmanager\nasync def graph(c): yield builder",
}


@pytest.mark.parametrize("form", FORMS)
async def test_attribute_may_be(form, project):
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=GRAPH + FORMS[form])
    assert (await run(path))["greeting"] == "hello Ada"


async def test_functional_api_is_a_graph_too(project):
    code = "from langgraph.func import entrypoint\n@entrypoint()\nasync def graph(name: str): return 'hello ' + name"
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=code)
    async with load_graphs(read_langgraph_json(path), checkpointer=None) as graphs:
        assert await graphs.by_name["g"].graph.ainvoke("Ada") == "hello Ada"


async def test_context_manager_is_closed_with_the_worker(project):
    factory = (
        "import contextlib\nclosed = []\n@contextlib.contextmanager\ndef graph():\n yield builder\n closed.append(1)"
    )
    path = project({"graphs": {"g": "./agent.py:graph", "closed": "./agent.py:builder"}}, agent=GRAPH + factory)
    config = read_langgraph_json(path)
    async with load_graphs(config, checkpointer=None) as graphs:
        module = sys.modules[graphs.by_name["closed"].graph.builder.state_schema.__module__]
        assert module.closed == []
    assert module.closed == [1]


async def test_graph_names_may_hold_spaces_and_a_spec_may_be_an_object(project):
    path = project({"graphs": {"my graph": {"path": "./agent.py:graph", "description": "greets"}}}, agent=GRAPH)
    assert (await run(path, "my graph"))["greeting"] == "hello Ada"


async def test_dotted_module_is_found_in_a_local_dependency(project):
    path = project({"graphs": {"g": "pkg.agent:graph"}, "dependencies": ["./lib"]}, lib__pkg__agent=GRAPH)
    assert (await run(path))["greeting"] == "hello Ada"


@pytest.mark.parametrize("statement", ["from .words import WORD", "from my_agent.words import WORD"])
async def test_module_of_a_package_imports_its_siblings(statement, project):
    agent = GRAPH.replace("hello", "{WORD}").replace("from typing", f"{statement}\nfrom typing", 1)
    files = {"my_agent____init____": "", "my_agent__words": "WORD = 'moin'", "my_agent__agent": agent}
    path = project({"graphs": {"g": "./my_agent/agent.py:graph"}, "dependencies": ["."]}, **files)
    (path.parent / "my_agent/__init__.py").touch()
    assert (await run(path))["greeting"] == "moin Ada"


async def test_package_in_a_src_layout_is_found_as_if_it_were_installed(project):
    agent = GRAPH.replace("hello", "{WORD}").replace("from typing", "from my_agent.words import WORD\nfrom typing", 1)
    files = {"src__my_agent__agent": agent, "src__my_agent__words": "WORD = 'servus'"}
    path = project({"graphs": {"g": "./src/my_agent/agent.py:graph"}, "dependencies": ["."]}, **files)
    (path.parent / "src/my_agent/__init__.py").touch()
    assert (await run(path))["greeting"] == "servus Ada"


async def test_file_gets_the_same_module_name_wherever_the_project_lies(project, tmp_path_factory):
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=GRAPH)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "langgraph.json"
    elsewhere.write_text(path.read_text())
    (elsewhere.parent / "agent.py").write_text(GRAPH)
    names = []
    for one in (path, elsewhere):
        async with load_graphs(read_langgraph_json(one), checkpointer=None) as graphs:
            names.append(graphs.by_name["g"].graph.builder.state_schema.__module__)
    assert names[0] == names[1]
    assert names[0] in sys.modules


async def test_worker_puts_its_checkpointer_into_every_graph_and_leaves_the_project_its_own(project):
    own = (
        "\nfrom langgraph.checkpoint.memory import InMemorySaver\ngraph = builder.compile(checkpointer=InMemorySaver())"
    )
    path = project({"graphs": {"g": "./agent.py:graph", "h": "./agent.py:builder"}}, agent=GRAPH + own)
    ours = InMemorySaver()
    async with load_graphs(read_langgraph_json(path), checkpointer=ours) as graphs:
        assert graphs.by_name["g"].graph.checkpointer is ours
        assert graphs.by_name["h"].graph.checkpointer is ours
        module = sys.modules[graphs.by_name["g"].graph.builder.state_schema.__module__]
        assert module.graph.checkpointer is not ours


async def test_unnamed_graph_is_called_as_langgraph_json_calls_it(project):
    named = GRAPH + "\nnamed = builder.compile(name='own name')"
    path = project({"graphs": {"g": "./agent.py:graph", "h": "./agent.py:named"}}, agent=named)
    async with load_graphs(read_langgraph_json(path), checkpointer=None) as graphs:
        assert [one.graph.name for one in graphs.by_name.values()] == ["g", "own name"]


async def test_loaded_graph_knows_the_keys_of_its_input(project):
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=GRAPH)
    async with load_graphs(read_langgraph_json(path), checkpointer=None) as graphs:
        assert graphs.by_name["g"].input == GraphInput(("name", "greeting"))


async def test_graph_of_an_unusual_class_is_loaded_with_a_warning(project):
    odd = f"{GRAPH}\ngraph.builder.schemas.clear()\n"
    path = project({"graphs": {"g": "./agent.py:graph"}}, agent=odd)
    async with load_graphs(read_langgraph_json(path), checkpointer=None) as graphs:
        assert graphs.by_name["g"].input == GraphInput()
        assert "graph 'g' (./agent.py:graph): its input cannot be checked" in graphs.warnings[0]


async def test_env_mapping_is_set_before_the_graph_is_imported(project):
    code = GRAPH.replace("hello", "{os.environ['GREETING']}").replace("from typing", "import os\nfrom typing", 1)
    path = project({"graphs": {"g": "./agent.py:graph"}, "env": {"GREETING": "salut"}}, agent=code)
    assert (await run(path))["greeting"] == "salut Ada"


async def test_env_file_never_overrides_the_environment(project, monkeypatch):
    path = project({"graphs": {"g": "./agent.py:graph"}, "env": ".env"}, agent=GRAPH)
    (path.parent / ".env").write_text("FROM_FILE='a b'\nFROM_BOTH=file\n")
    monkeypatch.setenv("FROM_BOTH", "environment")
    await run(path)
    assert (os.environ["FROM_FILE"], os.environ["FROM_BOTH"]) == ("a b", "environment")


def test_keys_without_effect_are_named_in_one_warning(project):
    others = {"x": 1, "store": {"path": "./s.py:s", "index": {}, "y": 1}, "checkpointer": {"z": 1}}
    (warning,) = read_langgraph_json(project({"graphs": {"g": "./a.py:g"}, **others})).warnings
    assert warning.endswith("no effect here: x, store.index, store.y, checkpointer.z")


def test_key_that_is_there_twice_is_named_in_a_warning_as_the_last_one_counts(project):
    read = read_langgraph_json(project('{"graphs": {"g": "./a.py:g", "h": "./a.py:h", "g": "./b.py:g"}}'))
    assert read.graphs == {"g": "./b.py:g", "h": "./a.py:h"}
    assert [warning.split(": ")[1] for warning in read.warnings] == [
        "'g' is there more than once in one object; the last one counts"
    ]


def test_keys_about_building_an_image_are_no_warning(project):
    others = dict.fromkeys(BUILD_KEYS, "anything")
    assert read_langgraph_json(project({"graphs": {"g": "./a.py:g"}, **others})).warnings == ()


def test_key_that_is_not_read_says_what_to_do_instead(project):
    others = {"auth": {"path": "./auth.py:auth"}, "http": {}, "webhooks": {}, "ui": {}, "checkpointer": {"ttl": {}}}
    warnings = read_langgraph_json(project({"graphs": {"g": "./a.py:g"}, **others})).warnings
    named = [warning.split(": ")[1].removesuffix(" has no effect here") for warning in warnings]
    assert named == ["auth", "http", "webhooks", "ui", "checkpointer.ttl"]
    assert warnings[0].endswith(
        "auth has no effect here: the gateway runs no user code: name users by API keys (docs/http.md)"
    )


def test_auth_is_refused_where_it_is_required(project):
    path = project({"graphs": {"g": "./a.py:g"}, "auth": {"path": "./auth.py:auth"}})
    with pytest.raises(GraphLoadError, match=r"LGRQ_REQUIRE_AUTH=true, got one: .* name users by API keys"):
        read_langgraph_json(path, requires_auth=True)
    assert read_langgraph_json(project({"graphs": {"g": "./a.py:g"}}), requires_auth=True).warnings == ()


def test_env_file_that_is_no_text_is_one_clear_error(project):
    path = project({"graphs": {"g": "./a.py:g"}, "env": "keys.env"})
    (path.parent / "keys.env").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"keys\.env: expected a readable file of settings, got: not UTF-8 text"):
        read_langgraph_json(path)


def test_missing_env_file_is_a_warning(project):
    (warning,) = read_langgraph_json(project({"graphs": {"g": "./a.py:g"}, "env": ".env"})).warnings
    assert "there is no file" in warning


def test_dependencies_that_are_not_installed_are_named_in_one_warning(project):
    dependencies = [".", "langgraph", "no-such-package>=2", "pydantic<1"]
    (warning,) = read_langgraph_json(project({"graphs": {"g": "./a.py:g"}, "dependencies": dependencies})).warnings
    assert "not installed: no-such-package>=2, pydantic<1 (found 2." in warning


async def test_langgraph_json_of_the_repository_serves_the_assistant(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "offline")
    async with load_graphs(read_langgraph_json(REPOSITORY / "langgraph.json"), checkpointer=None) as graphs:
        assert list(graphs.by_name) == ["assistant"]
        assert graphs.warnings == ()


SPECS = {
    "./none.py:graph": "there is no file",
    "./agent.ts:graph": "expected a Python file, got: agent.ts",
    "./agent.py:grahp": "./agent.py has no 'grahp' (did you mean graph?)",
    "./agent.py:xyz": "./agent.py has no 'xyz' (did you mean builder or graph or dangling?)",
    "./agent.py:State": "expected a compiled graph, a StateGraph or a factory of either, got: _TypedDictMeta",
    "./agent.py:NAME": "expected a compiled graph, a StateGraph or a factory of either, got: str",
    "./agent.py:two": "expected a factory to take nothing, a config, a runtime: ServerRuntime, or both, got: ",
    "./agent.py:broken": "its factory failed: KeyError: 'no key' (agent.py, line 20)",
    "./agent.py:leaves": "its factory failed: SystemExit: 3 (agent.py, line 21)",
    "./agent.py:dangling": "could not be compiled: ValueError:",
    "./raises.py:graph": "could not be imported: ModuleNotFoundError: No module named 'tavily' (raises.py, line 2)",
    "./exits.py:graph": "could not be imported: SystemExit: 0 (exits.py, line 1)",
    "./syntax.py:graph": "could not be imported: SyntaxError: ",
    "no_such.module:graph": "could not be imported: ModuleNotFoundError: No module named 'no_such'",
}
FAILURES = """
NAME = "a string"
def two(config, runtime): ...
def broken(): raise KeyError("no key")
def leaves(): raise SystemExit(3)
dangling = StateGraph(State).add_node("a", greet).add_edge(START, "b")
"""


@pytest.mark.parametrize("spec", SPECS)
async def test_graph_that_does_not_load_is_refused_in_one_line(spec, project):
    files = {
        "agent": GRAPH + FAILURES,
        "raises": "\nimport tavily",
        "exits": "raise SystemExit(0)",
        "syntax": "def graph(:",
    }
    path = project({"graphs": {"my graph": spec}}, **files)
    (path.parent / "agent.ts").touch()
    message = await refusal(path)
    assert message.startswith(f"graph 'my graph' ({spec}): ")
    assert SPECS[spec] in message


async def test_package_hidden_by_another_of_its_name_is_refused(project):
    path = project({"graphs": {"g": "./json/decoder.py:graph"}}, json__decoder=GRAPH)
    (path.parent / "json/__init__.py").touch()
    assert "its module 'json.decoder' is hidden by another one" in await refusal(path)


FILES = {
    "{": "expected JSON, got: ",
    "[]": "the file: expected an object, got: []",
    "{}": "graphs: expected an object of names",
    '{"graphs": {}}': "graphs: expected at least one graph, got: none",
    '{"graphs": {"g": "agent.py"}}': 'graphs.g: expected "./file.py:attribute" or "package.',
    '{"graphs": {"": "./a.py:g"}}': "graphs: expected a name of 1 to 256 characters, none of them a control character",
    '{"graphs": {"a\\nb": "./a.py:g"}}': "graphs: expected a name of 1 to 256 characters",
    '{"graphs": {"g": 3}}': "graphs.g: expected",
    '{"graphs": {"g": "./a.py:g"}, "dependencies": "."}': 'dependencies: expected a list of strings, got: "."',
    '{"graphs": {"g": "./a.py:g"}, "dependencies": ["./no"]}': "dependencies: there is no folder",
    '{"graphs": {"g": "./a.py:g"}, "env": {"A": 1}}': "env.A: expected a string, got: 1",
    '{"graphs": {"g": "./a.py:g"}, "store": []}': "",
    '{"graphs": {"g": "./a.py:g"}, "store": {"path": "./s.py"}}': "store.path: expected",
    '{"graphs": {"g": "./a.py:g"}, "checkpointer": {"path": 1}}': "checkpointer.path: expected",
    '{"graphs": {"g": "./a.py:g"}, "checkpointer": "./s.py:s"}': "checkpointer: expected an object",
}


@pytest.mark.parametrize("text", [text for text in FILES if FILES[text]])
def test_file_that_is_no_langgraph_json_is_refused_with_what_was_expected(text, project):
    with pytest.raises(GraphLoadError, match=r".*langgraph\.json: ") as caught:
        read_langgraph_json(project(text))
    assert FILES[text] in str(caught.value)


def test_missing_file_is_refused_and_names_the_option(tmp_path):
    with pytest.raises(GraphLoadError, match="--config"):
        read_langgraph_json(tmp_path / "langgraph.json")


RUN_THE_EXAMPLE = """
import asyncio, json
from pathlib import Path
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.graphs.input import GraphInput
from langgraph_rq.worker.graphs.graphs import load_graphs
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json

async def main():
    async with load_graphs(read_langgraph_json(Path("langgraph.json")), checkpointer=None) as graphs:
        loaded = graphs.by_name["support desk"]
        ticket = {"customer": "Ada", "problem": "I forgot my password"}
        print(json.dumps([list(graphs.warnings), loaded.input.keys, await loaded.graph.ainvoke(ticket)]))

asyncio.run(main())
"""


def test_example_runs_in_its_own_folder_as_it_stands():
    with OfflineLLM() as llm:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-P", "-c", RUN_THE_EXAMPLE],
            cwd=REPOSITORY / "examples/support_desk",
            env={**os.environ, "OPENAI_API_KEY": "offline", "OPENAI_BASE_URL": llm.url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    warnings, keys, output = json.loads(done.stdout)
    assert warnings == []
    assert keys == ["customer", "problem"]
    assert "I forgot my password" in output["reply"]
    assert output["reply"].endswith("Your support desk (Monday to Friday, 9 to 17 h)")

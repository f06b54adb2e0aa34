"""The fields of a task that LangGraph's run takes: each does what the same argument of `ainvoke` does."""

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
import pytest_asyncio
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel, Field
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import InvalidTaskError
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import FUNCTION, State
from tests.gateways import gateway
from tests.langgraph.bench import Bare, bench, forget
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Said(TypedDict):
    said: Annotated[list, operator.add]


@dataclass
class Settings:
    model: str = "small"
    user_id: str = "default"


class Checked(BaseModel):
    size: int = Field(1, le=5)


class Loose(TypedDict, total=False):
    model: str


def chain(*nodes, **schemas):
    builder = StateGraph(Said, **schemas)
    for node in nodes:
        builder.add_node(node.__name__, node)
    for one, other in zip((START, *[node.__name__ for node in nodes]), [node.__name__ for node in nodes], strict=False):
        builder.add_edge(one, other)
    return builder.compile()


async def tell_context(_state, runtime: Runtime) -> dict:
    context = runtime.context
    return {"said": [context if isinstance(context, dict | None) else {**vars(context)}]}


async def tell_config(_state, config: RunnableConfig) -> dict:
    keys = ("model", "thread_id", "user_id", "task_id")
    configurable = {key: config["configurable"].get(key) for key in keys}
    metadata = {key: config["metadata"].get(key) for key in ("a", "b")}
    return {"said": [[configurable, metadata, config.get("tags"), config.get("recursion_limit")]]}


async def one(_state) -> dict:
    return {"said": [1]}


async def two(state) -> dict:
    return {"said": [len(state["said"])]}


async def three(_state) -> dict:
    return {"said": [3]}


async def ask(_state) -> dict:
    return {"said": [interrupt("size?"), interrupt("colour?")]}


async def ask_left(_state) -> dict:
    return {"said": [("left", interrupt("left?"))]}


async def ask_right(_state) -> dict:
    return {"said": [("right", interrupt("right?"))]}


def side_by_side():
    builder = StateGraph(Said).add_node(ask_left).add_node(ask_right)
    return builder.add_edge(START, "ask_left").add_edge(START, "ask_right").compile()


def hub():
    """Nodes that nothing leads to but a command."""
    builder = StateGraph(Said).add_node(one).add_node(two).add_node(three)
    return builder.add_edge(START, "one").compile()


def nested():
    inner = chain(one, three)

    async def call(_state) -> dict:
        return {"said": [(await inner.ainvoke({"said": []}))["said"]]}

    builder = StateGraph(Said).add_node(one).add_node("inner", call)
    return builder.add_edge(START, "one").add_edge("one", "inner").compile()


GRAPHS: dict[str, Any] = {
    "nested": nested(),
    "dataclass": chain(tell_context, context_schema=Settings),
    "pydantic": chain(tell_context, context_schema=Checked),
    "typed": chain(tell_context, context_schema=Loose),
    "none": chain(tell_context),
    "config": chain(tell_config),
    "steps": chain(one, two, three),
    "asking": chain(ask),
    "two questions": side_by_side(),
    "hub": hub(),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, GRAPHS) as running:
        yield running


async def both(served, graph: str, turn: dict) -> Any:
    """The output of one turn, which is that of the bare graph."""
    bare = await Bare(GRAPHS[graph]).run(turn)
    seen = await served.serve(graph).run(turn)
    assert seen == bare
    return seen.output


NEW: dict = {"input": {"said": []}}


@pytest.mark.parametrize(
    ("graph", "context", "told"),
    [
        ("dataclass", None, {"model": "small", "user_id": "default"}),
        ("dataclass", {"model": "large"}, {"model": "large", "user_id": "default"}),
        ("pydantic", {"size": 3}, {"size": 3}),
        ("pydantic", None, {"size": 1}),
        ("typed", {"model": "large"}, {"model": "large"}),
        ("typed", None, None),
        ("none", {"free": [1]}, {"free": [1]}),
        ("none", None, None),
    ],
)
async def test_context_reaches_the_nodes_and_has_the_defaults_of_its_schema(served, graph, context, told):
    turn = NEW if context is None else {**NEW, "context": context}
    assert await both(served, graph, turn) == {"said": [told]}


@pytest.mark.parametrize(
    ("graph", "context", "words"),
    [
        ("dataclass", {"modle": "x"}, "context: TypeError: "),
        ("pydantic", {"size": 9}, "context.size: expected "),
    ],
)
async def test_context_that_its_schema_refuses_ends_the_task_before_any_node(served, graph, context, words):
    result = await served.serve(graph).submit({**NEW, "context": context})
    assert (result.status, result.error.type) == (State.ERROR, ErrorType.INVALID_INPUT)
    assert words in result.error.message


async def test_configurable_is_the_context_of_a_task_without_one_as_far_as_its_schema_has_the_keys(served):
    turn = {**NEW, "config": {"configurable": {"model": "large", "other": 1}}}
    result = await served.serve("dataclass").submit(turn)
    assert result.result == {"said": [{"model": "large", "user_id": "default"}]}


async def test_context_is_read_as_configurable_but_for_what_the_worker_sets(served):
    turn = {**NEW, "context": {"model": "large", "user_id": "mallory"}, "user_id": "ann", "task_id": "told"}
    result = await served.serve("config").submit(turn)
    ((configurable, *_),) = result.result["said"]
    assert configurable == {"model": "large", "thread_id": "TASK--told", "user_id": "ann", "task_id": "told"}


async def test_config_reaches_the_nodes(served):
    config = {
        "configurable": {"model": "large"},
        "tags": ["t"],
        "recursion_limit": 7,
        "metadata": {"a": 1, "b": 1},
        "run_name": "mine",
    }
    result = await served.serve("config").submit({**NEW, "config": config, "metadata": {"b": 2}})
    ((configurable, metadata, tags, limit),) = result.result["said"]
    assert (configurable["model"], metadata, tags, limit) == ("large", {"a": 1, "b": 2}, ["t"], 7)


async def test_recursion_limit_ends_a_run_as_it_ends_the_bare_one(served):
    turn = {**NEW, "config": {"recursion_limit": 2}}
    bare = await Bare(GRAPHS["steps"]).run(turn)
    seen = await served.serve("steps").run(turn)
    assert bare.error
    assert bare.error.splitlines()[0] in seen.error


@pytest.mark.parametrize("key", ["thread_id", "user_id", "task_id", "checkpoint_id", "checkpoint_ns", "__pregel_read"])
async def test_configurable_cannot_hold_what_the_worker_sets(served, key):
    with pytest.raises(InvalidTaskError, match=f"config.configurable: expected no key .*{key}"):
        await served.serve("steps").submit({**NEW, "config": {"configurable": {key: "x"}}})


@pytest.mark.parametrize("is_deep", [False, True])
async def test_task_that_streams_all_modes_answers_as_one_that_streams_none(served, is_deep):
    modes = ["checkpoints", "custom", "debug", "messages", "tasks", "updates", "values"]
    conversation = served.serve("nested")
    seen = await conversation.run({**NEW, "stream": modes, "stream_subgraphs": is_deep})
    assert seen.output == {"said": [1, [1, 3]]}
    events = [event async for event in served.client.events(conversation.last.task_id)]
    assert {event.type for event in events} >= {"checkpoints", "debug", "tasks", "updates", "values"}
    updated = [node for event in events if event.type == "updates" for node in event.data["data"]]
    assert updated == (["one", "one", "three", "inner"] if is_deep else ["one", "inner"])


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_every_durability_has_the_same_output_and_the_same_last_state(served, durability):
    conversation = served.serve("steps")
    seen = await conversation.run({**NEW, "durability": durability})
    assert seen.output == {"said": [1, 1, 3]}
    assert await conversation.state() == {"values": {"said": [1, 1, 3]}, "next": [], "asked": []}


async def test_durability_exit_writes_one_checkpoint(served):
    kept = {}
    for durability in ("sync", "exit"):
        conversation = served.serve("steps")
        await conversation.run({**NEW, "durability": durability})
        config = {"configurable": {"thread_id": conversation.thread_id}}
        kept[durability] = [one async for one in served.graphs["steps"].aget_state_history(config)]
    assert (len(kept["sync"]), len(kept["exit"])) == (5, 1)


async def test_http_and_stock_rq_take_the_same_fields(served, redis_server):
    fields = {
        "input": {"said": []},
        "graph": "config",
        "context": {"model": "large"},
        "config": {"tags": ["t"], "metadata": {"a": 1}, "recursion_limit": 7},
        "interrupt_after": ["tell_config"],
        "durability": "exit",
        "stream": ["debug"],
        "stream_subgraphs": True,
        "metadata": {"b": 2},
    }
    async with gateway(redis_server.url) as http:
        answer = await http.post("/tasks", json=fields)
        assert answer.status_code == 202, answer.text
        refused = await http.post("/tasks", json={**fields, "config": {"configurable": {"task_id": "x"}}})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "config.configurable")
        missing = await http.post("/tasks", json={"graph": "config"})
        assert (missing.status_code, missing.json()["errors"][0]["field"]) == (422, "input")
        gone_on = await http.post("/tasks", json={"graph": "config", "input": None, "thread_id": "nothing-over-http"})
        assert gone_on.status_code == 202
    with Redis.from_url(redis_server.url) as redis:
        queue = Queue("agent_tasks", connection=redis, serializer=JSONSerializer)
        queue.enqueue(FUNCTION, fields, job_id="fields-by-rq")
        await until(lambda: served.client.result("fields-by-rq"))
    told = []
    for task_id in (answer.json()["task_id"], "fields-by-rq"):
        result = await served.client.wait(task_id, 30)
        ((configurable, *more),) = result.result["said"]
        told.append([result.status, configurable["model"], *more])
    assert told == [[State.SUCCESS, "large", {"a": 1, "b": 2}, ["t"], 7]] * 2


@pytest.mark.parametrize("goto", ["three", ["three"], {"node": "two", "input": {"said": [1, 2]}}, ["two", "three"]])
async def test_command_goes_to_a_node_of_a_used_thread(served, goto):
    bare, conversation = Bare(GRAPHS["hub"]), served.serve("hub")
    for turn in (NEW, {"command": {"goto": goto, "update": {"said": [9]}}}):
        assert await conversation.run(turn) == await bare.run(turn)
    assert await conversation.state() == await bare.state()


async def test_command_updates_the_state_by_pairs(served):
    bare, conversation = Bare(GRAPHS["hub"]), served.serve("hub")
    for turn in (NEW, {"command": {"goto": "three", "update": [["said", [7]], ["said", [8]]]}}):
        assert await conversation.run(turn) == await bare.run(turn)


async def test_command_answers_one_question_after_the_other_by_a_plain_value(served):
    bare, conversation = Bare(GRAPHS["asking"]), served.serve("asking")
    for turn in (NEW, {"command": {"resume": 3}}, {"command": {"resume": "red"}}):
        assert await conversation.run(turn) == await bare.run(turn)
    assert await conversation.state() == await bare.state()


async def test_worker_killed_after_the_next_question_does_not_answer_it_with_the_same_plain_value(served):
    conversation = served.serve("asking")
    await conversation.submit({**NEW, "thread_id": "killed"})
    answer = {"thread_id": "killed", "task_id": "killed-answer", "command": {"resume": 3}}
    asked = await conversation.submit(answer)
    await forget(served.client.redis, "killed-answer", "killed")
    again = await conversation.submit(answer)
    assert [one["value"] for one in again.result["__interrupt__"]] == ["colour?"]
    assert again.result == asked.result
    result = await conversation.submit({"thread_id": "killed", "command": {"resume": "red"}})
    assert result.result == {"said": [3, "red"]}


async def test_command_answers_parallel_questions_by_id_only(served):
    conversation = served.serve("two questions")
    asked = await conversation.submit({**NEW, "thread_id": "by-id"})
    ids = {one["value"]: one["id"] for one in asked.result["__interrupt__"]}
    refused = await conversation.submit({"thread_id": "by-id", "command": {"resume": 1}})
    assert refused.error.type is ErrorType.INVALID_INPUT
    assert "command.resume: expected an object of interrupt id -> answer" in refused.error.message
    answers = {ids["left?"]: 1, ids["right?"]: 2}
    result = await conversation.submit({"thread_id": "by-id", "command": {"resume": answers}})
    assert result.result == {"said": [["left", 1], ["right", 2]]}


async def test_null_input_asks_the_pending_question_again(served):
    bare, conversation = Bare(GRAPHS["asking"]), served.serve("asking")
    for turn in (NEW, {"input": None}, {"command": {"resume": 3}}, {"command": {"resume": "red"}}):
        assert await conversation.run(turn) == await bare.run(turn)


async def test_null_input_on_a_finished_thread_answers_its_state(served):
    bare, conversation = Bare(GRAPHS["steps"]), served.serve("steps")
    for turn in (NEW, {"input": None}):
        assert await conversation.run(turn) == await bare.run(turn)


async def test_null_input_on_a_thread_without_checkpoint_is_refused(served):
    result = await served.serve("steps").submit({"input": None, "thread_id": "nothing-there"})
    assert result.error.type is ErrorType.INVALID_INPUT
    assert result.error.message == "input: expected a thread with a checkpoint to continue from, got: none"


async def test_task_goes_on_from_an_earlier_checkpoint_with_and_without_input(served):
    conversation = served.serve("steps")
    await conversation.run(NEW)
    config: Any = {"configurable": {"thread_id": conversation.thread_id}}
    history = [one async for one in served.graphs["steps"].aget_state_history(config)]
    (before_three,) = [one for one in history if one.next == ("three",)]
    from_there = {"checkpoint_id": before_three.config["configurable"]["checkpoint_id"]}
    again = await conversation.run({"input": None, **from_there})
    assert again.output == {"said": [1, 1, 3]}
    forked = await conversation.run({"input": {"said": ["new"]}, **from_there})
    assert forked.output["said"][:3] == [1, 1, "new"]


async def test_unknown_checkpoint_and_unknown_node_are_named(served):
    conversation = served.serve("steps")
    await conversation.run(NEW)
    for field, value, words in (
        ("checkpoint_id", "1f0c1d0a-0000-6000-8000-000000000000", "checkpoint_id: expected the id of a checkpoint"),
        ("interrupt_before", ["tow"], "interrupt_before: expected nodes of the graph (one, two, three), got: tow"),
    ):
        result = await conversation.submit({"input": {"said": []}, "thread_id": conversation.thread_id, field: value})
        assert result.error.type is ErrorType.INVALID_INPUT
        assert words in result.error.message

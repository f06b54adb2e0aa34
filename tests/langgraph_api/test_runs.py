"""LangGraph's stock SDK runs graphs through our gateway: it waits, streams, comes back, asks, forks and cancels."""

import asyncio
import json
import operator
from contextlib import aclosing
from typing import Annotated

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from langgraph_sdk import get_client
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from typing_extensions import TypedDict

from langgraph_rq import AsyncClient, State, ThreadBusyError
from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.producer.gateway.langgraph_api.runs import wait
from tests.langgraph_api.servers import serving, serving_graphs
from tests.waiting import until

HI = {"messages": [{"role": "user", "content": "hi"}]}


class Asked(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


@pytest.fixture
async def sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as client:
        yield client


async def test_run_on_a_thread_leaves_its_state_and_is_listed(sdk):
    thread = await sdk.threads.create(metadata={"topic": "greetings"})
    answer = await sdk.runs.wait(thread["thread_id"], "chat", input=HI, metadata={"source": "test"})
    found = await sdk.threads.get(thread["thread_id"])
    (run,) = await sdk.runs.list(thread["thread_id"])
    assert answer["steps"] == ["prepare", "model", "finish"]
    assert (found["status"], found["values"]) == ("idle", answer)
    assert found["metadata"]["graph_id"] == "chat"
    assert (run["status"], run["metadata"]["source"], run["metadata"]["topic"]) == ("success", "test", "greetings")
    assert await sdk.runs.join(thread["thread_id"], run["run_id"]) == answer
    assert [one["thread_id"] for one in await sdk.threads.search(metadata={"topic": "greetings"})] == [
        thread["thread_id"]
    ]


async def test_stream_can_be_joined_from_its_beginning_or_after_any_event(sdk):
    thread = await sdk.threads.create()
    modes = ["values", "updates", "messages-tuple", "custom"]
    heard = [part async for part in sdk.runs.stream(thread["thread_id"], "chat", input=HI, stream_mode=modes)]
    (run,) = await sdk.runs.list(thread["thread_id"])
    again = [part async for part in sdk.runs.join_stream(thread["thread_id"], run["run_id"], last_event_id="-1")]
    rest = [part async for part in sdk.runs.join_stream(thread["thread_id"], run["run_id"], last_event_id=heard[4].id)]
    assert {"metadata", "values", "updates", "messages", "custom", "end"} == {part.event for part in heard}
    assert [(part.event, part.data) for part in again] == [(part.event, part.data) for part in heard]
    assert [part.id for part in rest] == [part.id for part in heard[5:]]


async def test_messages_are_put_together_from_their_pieces(sdk):
    parts = [part async for part in sdk.runs.stream(None, "chat", input=HI, stream_mode="messages")]
    partial = [part.data[0]["content"] for part in parts if part.event == "messages/partial"]
    assert partial == ["alpha", "alpha ", "alpha beta", "alpha beta ", "alpha beta gamma"]
    assert {part.data[0]["type"] for part in parts if part.event == "messages/partial"} == {"ai"}
    assert [part.event for part in parts][:3] == ["metadata", "messages/metadata", "messages/partial"]


async def test_question_is_answered_by_a_command(sdk):
    thread = await sdk.threads.create()
    asked = await sdk.runs.wait(thread["thread_id"], "ask", input={"topic": "lunch"})
    found = await sdk.threads.get(thread["thread_id"])
    answered = await sdk.runs.wait(thread["thread_id"], "ask", command={"resume": "yes"})
    assert asked["__interrupt__"][0]["value"] == {"question": "approve lunch?"}
    assert found["status"] == "interrupted"
    ((question,),) = found["interrupts"].values()
    assert question["id"] == asked["__interrupt__"][0]["id"]
    assert answered["answer"] == "yes"
    assert (await sdk.threads.get(thread["thread_id"]))["status"] == "idle"


async def test_run_forks_from_an_older_checkpoint(sdk):
    thread = await sdk.threads.create()
    await sdk.runs.wait(thread["thread_id"], "nested", input={"value": 1})
    history = await sdk.threads.get_history(thread["thread_id"])
    (before_outer,) = [one for one in history if one["next"] == ["outer"]]
    forked = await sdk.runs.wait(
        thread["thread_id"], "nested", input=None, checkpoint_id=before_outer["checkpoint"]["checkpoint_id"]
    )
    assert forked["value"] == 20
    assert len(await sdk.threads.get_history(thread["thread_id"])) > len(history)


async def test_failed_run_says_what_failed(sdk):
    thread = await sdk.threads.create()
    parts = [part async for part in sdk.runs.stream(thread["thread_id"], "broken", input={"steps": []})]
    assert [(part.event, part.data) for part in parts if part.event == "error"] == [
        ("error", {"error": "ValueError", "message": "broken on purpose"})
    ]
    found = await sdk.threads.get(thread["thread_id"])
    assert (found["status"], found["error"]["error"]) == ("error", "ValueError")
    with pytest.raises(Exception, match="broken on purpose"):
        await sdk.runs.wait(thread["thread_id"], "broken", input={"steps": []})


async def test_state_that_was_updated_is_gone_on_from(sdk):
    thread = await sdk.threads.create()
    await sdk.runs.wait(thread["thread_id"], "nested", input={"value": 1})
    await sdk.threads.update_state(thread["thread_id"], {"value": 5}, as_node="outer")
    state = await sdk.threads.get_state(thread["thread_id"])
    assert (state["values"]["value"], state["next"]) == (5, ["child"])
    assert (await sdk.threads.get(thread["thread_id"]))["status"] == "interrupted"
    assert (await sdk.runs.wait(thread["thread_id"], "nested", input=None))["value"] == 60


@pytest.mark.parametrize(
    "change", [{"values": {"topic": "supper"}}, {"values": None, "as_node": "__copy__"}], ids=["updated", "copied"]
)
async def test_plain_answer_reaches_the_node_of_a_subgraph_whose_state_was_updated_or_copied(sdk, change):
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "nested_ask", input={"topic": "lunch"})
    (child,) = (await sdk.threads.get_state(thread, subgraphs=True))["tasks"]
    await sdk.threads.update_state(thread, checkpoint=child["state"]["checkpoint"], **change)
    answered = await sdk.runs.wait(thread, "nested_ask", command={"resume": "yes"})
    assert ("__interrupt__" in answered, answered.get("answer")) == (False, "yes")


async def test_plain_answer_is_refused_while_two_questions_stand_also_if_one_is_asked_anew(redis_url, redis_client):
    def ask(_state):
        return {"steps": [interrupt("sure?")]}

    inner = StateGraph(Asked).add_node("ask", ask).add_edge(START, "ask").compile()
    outer = StateGraph(Asked).add_node("one", inner).add_node("two", inner)
    graph = outer.add_edge(START, "one").add_edge(START, "two").compile()
    async with serving_graphs(redis_url, redis_client, {"both": graph}) as sdk:
        thread = (await sdk.threads.create())["thread_id"]
        await sdk.runs.wait(thread, "both", input={"steps": []})
        asking = (await sdk.threads.get_state(thread, subgraphs=True))["tasks"][0]["state"]
        await sdk.threads.update_state(thread, {"steps": ["changed"]}, checkpoint=asking["checkpoint"])
        with pytest.raises(Exception, match="expected an object of interrupt id -> answer"):
            await sdk.runs.wait(thread, "both", command={"resume": "yes"})


async def test_plain_answer_is_for_the_question_that_is_shown_also_beside_a_subgraph_that_was_updated(
    redis_url, redis_client
):
    has_asked, runs = asyncio.Event(), []

    async def ask(_state):
        has_asked.set()
        return {"steps": [f"inner {interrupt('inner?')}"]}

    async def ask_later(_state):
        if runs:
            await has_asked.wait()
        runs.append(1)
        return {"steps": [f"outer {interrupt('outer?')}"]}

    inner = StateGraph(Asked).add_node("ask", ask).add_edge(START, "ask").compile(interrupt_before=["ask"])
    outer = StateGraph(Asked).add_node("inner", inner).add_node("outer", ask_later)
    graph = outer.add_edge(START, "inner").add_edge(START, "outer").compile()
    async with serving_graphs(redis_url, redis_client, {"both": graph}) as sdk:
        thread = (await sdk.threads.create())["thread_id"]
        await sdk.runs.wait(thread, "both", input={"steps": []})
        tasks = {task["name"]: task for task in (await sdk.threads.get_state(thread, subgraphs=True))["tasks"]}
        assert [name for name, task in tasks.items() if task["interrupts"]] == ["outer"]
        checkpoint = tasks["inner"]["state"]["checkpoint"]
        await sdk.threads.update_state(thread, {"steps": ["changed"]}, checkpoint=checkpoint)
        answered = await sdk.runs.wait(thread, "both", command={"resume": "yes"})
    assert [question["value"] for question in answered["__interrupt__"]] == ["inner?"]
    assert answered["steps"] == ["outer yes"]


async def test_question_that_is_skipped_by_hand_is_not_shown_any_more(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "ask", input={"topic": "lunch"})
    await sdk.threads.update_state(thread, None, as_node="__end__")  # as Agent Inbox ignores it
    found = await sdk.threads.get(thread)
    assert (found["status"], found["interrupts"]) == ("idle", {})
    asking = {"status": "interrupted", "metadata": {"graph_id": "ask"}}
    assert await sdk.threads.search(**asking) == []
    assert "__interrupt__" in await sdk.runs.wait(thread, "ask", input={"topic": "supper"})
    assert [one["thread_id"] for one in await sdk.threads.search(**asking)] == [thread]
    run = await sdk.runs.create(thread, "ask", command={"resume": [{"type": "accept", "args": None}]})
    assert (await sdk.runs.join(thread, run["run_id"]))["answer"] == [{"type": "accept", "args": None}]


async def test_texts_are_passed_on_with_their_control_characters_but_without_nul(sdk):
    thread, pasted = (
        (await sdk.threads.create(metadata={"title": "a\x0cb"}))["thread_id"],
        "page 1\x0c\x1b[1mpage 2\x1b[0m\x85",
    )
    answer = await sdk.runs.wait(thread, "chat", input={"messages": [{"role": "user", "content": pasted}]})
    state = await sdk.threads.get_state(thread)
    assert answer["messages"][0]["content"] == state["values"]["messages"][0]["content"] == pasted
    assert [one["thread_id"] for one in await sdk.threads.search(metadata={"title": "a\x0cb"})] == [thread]
    await sdk.store.put_item(["n"], key="k", value={"text": pasted})
    assert (await sdk.store.get_item(["n"], key="k"))["value"] == {"text": pasted}
    with pytest.raises(UnprocessableEntityError, match=r"input\.topic.*U\+0000"):
        await sdk.runs.create(thread, "ask", input={"topic": "\x00"})


async def test_stream_of_a_run_without_thread_names_the_thread_under_which_it_is_found(sdk):
    told = [part async for part in sdk.runs.stream(None, "chat", input=HI, stream_mode=["messages-tuple", "debug"])]
    threads = {part.data[1]["thread_id"] for part in told if part.event == "messages"}
    threads |= {
        part.data["payload"]["checkpoint"]["thread_id"] for part in told if "checkpoint" in str(part.data)[:200]
    }
    (thread,), run_id = threads, told[0].data["run_id"]
    assert (await sdk.runs.get(thread, run_id))["thread_id"] == thread


async def test_metadata_of_the_thread_are_those_of_its_runs_too(sdk):
    thread = (await sdk.threads.create(metadata={"owner": "ann", "topic": "tea"}))["thread_id"]
    told = [
        part.data[1]
        async for part in sdk.runs.stream(
            thread, "chat", input=HI, metadata={"topic": "milk"}, stream_mode="messages-tuple"
        )
        if part.event == "messages"
    ]
    assert {(one["owner"], one["topic"]) for one in told} == {("ann", "milk")}
    assert len(await sdk.threads.get_history(thread, metadata={"owner": "ann", "topic": "milk"})) == 5
    assert await sdk.threads.get_history(thread, metadata={"topic": "tea"}) == []
    run = await sdk.runs.create(thread, "chat", input=HI, config={"metadata": {"source": "config"}})
    assert (run["metadata"]["source"], run["metadata"]["owner"]) == ("config", "ann")


async def test_command_may_come_with_an_input_that_says_nothing(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.wait(thread, "ask", input={"topic": "lunch"})
    ended = await sdk.runs.wait(thread, "ask", input={}, command={"goto": "after"})  # as agent-chat-ui sends it
    assert ended["steps"] == ["before", "after"]
    fresh = (await sdk.threads.create())["thread_id"]
    assert (await sdk.runs.wait(fresh, "nested", input={"value": 1}, command={}))["value"] == 20
    with pytest.raises(UnprocessableEntityError, match="either input or command"):
        await sdk.runs.create(thread, "ask", input={"topic": "supper"}, command={"goto": "after"})


async def test_busy_threads_state_cannot_be_updated(sdk, redis_url):
    thread = await sdk.threads.create()
    run = await sdk.runs.create(thread["thread_id"], "slow", input={"name": "a", "ticks": 500, "tick_s": 0.1})
    with pytest.raises(ConflictError):
        await sdk.threads.update_state(thread["thread_id"], {"name": "b"})
    async with AsyncClient(redis_url) as client:
        with pytest.raises(ThreadBusyError):
            await client.threads.update(thread["thread_id"], {"name": "b"}, graph="slow")
        with pytest.raises(ThreadBusyError):
            await client.threads.delete(thread["thread_id"], graph="slow")
    await sdk.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
    assert (await sdk.runs.get(thread["thread_id"], run["run_id"]))["status"] == "interrupted"


async def test_one_of_many_runs_is_taken_where_the_others_are_to_be_rejected(sdk):
    thread = await sdk.threads.create()

    async def create():
        try:
            return await sdk.runs.create(
                thread["thread_id"],
                "slow",
                input={"name": "a", "ticks": 500, "tick_s": 0.1},
                multitask_strategy="reject",
            )
        except ConflictError:
            return None

    taken = [run for run in await asyncio.gather(*(create() for _ in range(20))) if run]
    assert len(taken) == 1
    await sdk.runs.cancel(thread["thread_id"], taken[0]["run_id"], wait=True)


async def test_new_run_interrupts_the_one_before(sdk):
    thread = await sdk.threads.create()
    first = await sdk.runs.create(thread["thread_id"], "slow", input={"name": "a", "ticks": 500, "tick_s": 0.1})
    await until(lambda: sdk.runs.get(thread["thread_id"], first["run_id"]))
    second = await sdk.runs.wait(
        thread["thread_id"], "slow", input={"name": "b", "ticks": 1, "tick_s": 0.01}, multitask_strategy="interrupt"
    )
    assert second["name"] == "b"
    assert (await sdk.runs.get(thread["thread_id"], first["run_id"]))["status"] == "interrupted"


async def test_reader_that_goes_away_stops_a_run_that_it_wanted_stopped(sdk, redis_url):
    thread = await sdk.threads.create()
    stream = sdk.runs.stream(
        thread["thread_id"],
        "slow",
        input={"name": "a", "ticks": 500, "tick_s": 0.1},
        stream_mode="custom",
        on_disconnect="cancel",
    )
    async with aclosing(stream) as parts:
        async for part in parts:
            if part.event == "custom":
                break
    (run,) = await sdk.runs.list(thread["thread_id"])
    async with AsyncClient(redis_url) as client:
        assert (await client.wait(run["run_id"], 20)).status is State.CANCELLED


async def test_thread_that_is_deleted_is_gone_with_its_runs_and_its_state(sdk, redis_client):
    thread = await sdk.threads.create()
    await sdk.runs.wait(thread["thread_id"], "nested", input={"value": 1})
    run = await sdk.runs.create(thread["thread_id"], "slow", input={"name": "a", "ticks": 500, "tick_s": 0.1})
    await sdk.threads.delete(thread["thread_id"])
    with pytest.raises(NotFoundError):
        await sdk.threads.get(thread["thread_id"])
    await until(lambda: redis_client.hget(f"agent:task:{run['run_id']}", "state") == "cancelled")
    assert redis_client.hkeys(f"agent:thread_state:{thread['thread_id']}") in ([], ["t"])
    assert await sdk.threads.count() == 0


async def test_answer_to_a_question_may_come_with_an_input_which_is_not_used(sdk):
    thread = await sdk.threads.create()
    asked = await sdk.runs.wait(thread["thread_id"], "ask", input={"topic": "tea"})
    answered = await sdk.runs.wait(thread["thread_id"], "ask", input=asked, command={"resume": "yes"})
    assert (answered["answer"], answered["steps"]) == ("yes", ["before", "ask", "after"])
    with pytest.raises(UnprocessableEntityError, match="either input or command"):
        await sdk.runs.create(thread["thread_id"], "ask", input={"topic": "x"}, command={"goto": "after"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("webhook", "https://example.org"),
        ("multitask_strategy", "replace"),
        ("stream_mode", ["nonsense"]),
        ("nonsense", 1),
        ("after_seconds", -1),
    ],
)
async def test_what_is_not_served_is_refused_by_name(sdk, field, value):
    answer = await sdk.http.client.post("/runs", json={"assistant_id": "chat", "input": HI, field: value})
    assert answer.status_code == 422
    assert field in answer.json()["detail"]


async def test_runs_on_what_does_not_exist_are_refused(sdk):
    thread = await sdk.threads.create()
    nobody = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(NotFoundError):
        await sdk.runs.create(nobody, "chat", input=HI)
    with pytest.raises(UnprocessableEntityError):
        await sdk.runs.create(thread["thread_id"], "chatt", input=HI)
    with pytest.raises(NotFoundError):
        await sdk.runs.get(thread["thread_id"], nobody)
    assert (await sdk.runs.wait(nobody, "nested", input={"value": 1}, if_not_exists="create"))["value"] == 20


@pytest.mark.parametrize("alone", [True, False])
async def test_run_that_is_deleted_is_unknown_and_listed_nowhere(sdk, redis_url, alone):
    thread = None if alone else (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(thread, "slow", input={"name": "a", "ticks": 1_000, "tick_s": 0.1})
    with pytest.raises(ConflictError):
        await sdk.runs.delete(run["thread_id"], run["run_id"])
    await sdk.runs.cancel(run["thread_id"], run["run_id"], wait=True)
    await sdk.runs.delete(run["thread_id"], run["run_id"])
    with pytest.raises(NotFoundError):
        await sdk.runs.get(run["thread_id"], run["run_id"])
    with pytest.raises(NotFoundError):
        await sdk.runs.delete(run["thread_id"], run["run_id"])
    assert alone or await sdk.runs.list(thread) == []
    async with AsyncClient(redis_url) as client:
        assert (await client.tasks()).tasks == ()


async def test_threads_of_two_tenants_with_one_id_are_two(redis_url, redis_client):
    (acme, acme_line), (other, other_line) = make_key("acme"), make_key("other")
    async with serving(redis_url, redis_client, keys=f"{acme_line}\n{other_line}\n") as sdk:
        url = str(sdk.http.client.base_url)
        async with get_client(url=url, api_key=acme) as one, get_client(url=url, api_key=other) as two:
            await one.threads.create(thread_id="11111111-2222-4333-8444-555555555510", metadata={"of": "acme"})
            with pytest.raises(NotFoundError):
                await two.threads.get("11111111-2222-4333-8444-555555555510")
            await two.threads.create(thread_id="11111111-2222-4333-8444-555555555510")
            await one.runs.wait("11111111-2222-4333-8444-555555555510", "nested", input={"value": 1})
            assert (await two.threads.get("11111111-2222-4333-8444-555555555510"))["values"] is None
            assert await two.runs.list("11111111-2222-4333-8444-555555555510") == []
            assert await two.threads.count(metadata={"of": "acme"}) == 0
            (found,) = await one.threads.search()
            assert found["values"]["value"] == 20
            seen = [found, *await one.threads.get_history(found["thread_id"]), *await one.runs.list(found["thread_id"])]
            assert "acme--" not in json.dumps(seen)  # the names under which Redis has them


async def test_rows_of_another_type_are_replaced_and_keep_no_task_from_running(redis_url, redis_client):
    async with serving(redis_url, redis_client) as sdk, AsyncClient(redis_url) as client:
        for key in ("agent:thread_row:t", "agent:thread_runs:t", "agent:threads:default"):
            redis_client.set(key, "x")
        task = await client.submit({"value": 1}, graph="nested", thread_id="t")
        assert (await client.wait(task.task_id, 20)).status is State.SUCCESS
        assert (await sdk.threads.get("t"))["values"]["value"] == 20


async def test_metadata_that_two_change_at_once_are_both_kept(sdk):
    thread = await sdk.threads.create()
    await asyncio.gather(*(sdk.threads.update(thread["thread_id"], metadata={f"k{i}": i}) for i in range(5)))
    metadata = (await sdk.threads.get(thread["thread_id"]))["metadata"]
    assert metadata == {f"k{i}": i for i in range(5)}


async def test_wait_keeps_its_connection_alive_with_blanks(sdk, monkeypatch):
    monkeypatch.setattr(wait, "HEARTBEAT_S", 0.3)
    thread = await sdk.threads.create()
    body = {"assistant_id": "slow", "input": {"name": "a", "ticks": 3, "tick_s": 0.3}}
    async with httpx.AsyncClient(base_url=str(sdk.http.client.base_url), timeout=20) as http:
        answer = await http.post(f"/threads/{thread['thread_id']}/runs/wait", json=body)
    assert answer.content.startswith(b" ")
    assert answer.json()["name"] == "a"


@pytest.mark.parametrize(("number", "says"), [(0, "a list of 1 or more, got"), (101, "a list of at most 100, got")])
async def test_batch_of_none_or_too_many_is_refused_by_its_length(sdk, number, says):
    with pytest.raises(UnprocessableEntityError, match=says):
        await sdk.runs.create_batch([{"assistant_id": "chat", "input": HI}] * number)

"""What a worker tells of a task while it runs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph

from langgraph_rq import Client
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.events import PART_BYTES, EventType, Parts, append_call, read_event
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.outputs.json_values import as_json
from langgraph_rq.worker.task.events import EventWriter
from langgraph_rq.worker.task.redacted import Redaction
from tests.fleet import Number, one_node_graph, worker


async def plus_one(state: Number):
    get_stream_writer()({"seen": state["n"]})
    return {"n": state["n"] + 1}


def two_nodes():
    graph = StateGraph(Number).add_node("first", plus_one).add_node("second", plus_one)
    return graph.add_edge(START, "first").add_edge("first", "second").add_edge("second", END).compile()


async def events_of(client: Client, aredis, stream=(), input=None):  # noqa: A002
    """Run one task and answer its result and its events, as (type, data)."""
    task = client.submit(input or {"n": 1}, graph="g", stream=stream)
    result = await asyncio.to_thread(client.wait, task.task_id, 10)
    entries = await aredis.xrange(f"agent:events:{task.task_id}")
    events = map(Parts().join, map(read_event, entries))
    return result, [(event.type, event.data) for event in events if event]


def key(task_id: str) -> str:
    return f"agent:events:{task_id}"


async def raw_entries(aredis, task_id: str) -> list[tuple[str, bytes]]:
    entries = await aredis.xrange(key(task_id))
    return [(fields[b"type"].decode(), fields[b"data"]) for _, fields in entries]


async def test_task_that_asks_for_nothing_has_its_states_only(redis_url, client, aredis):
    async with worker(redis_url, {"g": two_nodes()}):
        _, events = await events_of(client, aredis)
    assert events == [("state", {"state": "running", "attempt": 1}), ("end", {"state": "success"})]


async def test_chosen_modes_tell_what_langgraphs_stream_modes_tell(redis_url, client, aredis):
    async with worker(redis_url, {"g": two_nodes()}):
        _, events = await events_of(client, aredis, ["values", "updates", "custom"])
    assert [(kind, data) for kind, data in events if kind not in {"state", "end", "node"}] == [
        ("values", {"attempt": 1, "data": {"n": 1}}),
        ("custom", {"attempt": 1, "data": {"seen": 1}}),
        ("updates", {"attempt": 1, "data": {"first": {"n": 2}}}),
        ("values", {"attempt": 1, "data": {"n": 2}}),
        ("custom", {"attempt": 1, "data": {"seen": 2}}),
        ("updates", {"attempt": 1, "data": {"second": {"n": 3}}}),
        ("values", {"attempt": 1, "data": {"n": 3}}),
    ]


async def test_any_mode_adds_where_nodes_start_and_end(redis_url, client, aredis):
    async with worker(redis_url, {"g": two_nodes()}):
        _, events = await events_of(client, aredis, ["messages"])
    assert [data for kind, data in events if kind == "node"] == [
        {"attempt": 1, "node": "first", "phase": "start"},
        {"attempt": 1, "node": "first", "phase": "end"},
        {"attempt": 1, "node": "second", "phase": "start"},
        {"attempt": 1, "node": "second", "phase": "end"},
    ]


async def test_tokens_come_in_order_and_make_up_the_message(redis_url, client, aredis):
    async def answer(_state: MessagesState):
        model = GenericFakeChatModel(messages=iter([AIMessage("to be or not to be")]))
        return {"messages": [await model.ainvoke("?")]}

    async with worker(redis_url, {"g": one_node_graph(answer, MessagesState)}):
        result, events = await events_of(client, aredis, ["messages"], {"messages": []})
    tokens = [data["message"] for kind, data in events if kind == "messages"]
    assert len(tokens) > 5
    assert {token["type"] for token in tokens} == {"AIMessageChunk"}
    assert len({token["id"] for token in tokens}) == 1
    assert "".join(token.get("content", "") for token in tokens) == result.result["messages"][-1]["content"]


@pytest.mark.parametrize("stream", [[], ["values", "messages"]])
async def test_result_is_the_same_with_and_without_events(redis_url, client, aredis, stream):
    async with worker(redis_url, {"g": two_nodes()}):
        result, _ = await events_of(client, aredis, stream)
    assert (result.status, result.result) == (State.SUCCESS, {"n": 3})


async def test_events_of_a_failing_node_come_before_the_end(redis_url, client, aredis):
    async def fail(_state):
        get_stream_writer()("almost")
        raise ValueError("no")

    async with worker(redis_url, {"g": one_node_graph(fail, Number)}):
        result, events = await events_of(client, aredis, ["custom"])
    assert result.status is State.ERROR
    assert [kind for kind, _ in events] == ["state", "node", "custom", "node", "end"]
    assert events[3][1] == {"attempt": 1, "node": "node", "phase": "end", "error": "ValueError: no"}


async def test_long_event_is_cut_into_entries_that_the_client_joins(redis_url, client, aredis):
    long = "ü€😀" * PART_BYTES  # a cut falls into characters of each length

    async def tell(_state):
        get_stream_writer()(long)
        get_stream_writer()("short")

    async with worker(redis_url, {"g": one_node_graph(tell, Number)}):
        result, _ = await events_of(client, aredis, ["custom"])
    assert [kind for kind, _ in await raw_entries(aredis, result.task_id)][2:6] == [
        "custom 1/10", "custom 2/10", "custom 3/10", "custom 4/10",
    ]  # fmt: skip
    joined = await asyncio.to_thread(lambda: list(client.events(result.task_id)))
    assert [event.data["data"] for event in joined if event.type == "custom"] == [long, "short"]
    parts = [event for event in joined if event.type == "custom"]
    later = await asyncio.to_thread(lambda: list(client.events(result.task_id, parts[0].id)))
    assert later == joined[joined.index(parts[1]) :]


async def test_event_whose_first_parts_are_forgotten_is_none(redis_url, client, aredis):
    async def tell(_state):
        get_stream_writer()("x" * 3 * PART_BYTES)

    async with worker(redis_url, {"g": one_node_graph(tell, Number)}):
        result, _ = await events_of(client, aredis, ["custom"])
    first = next(id_ for id_, fields in await aredis.xrange(key(result.task_id)) if fields[b"type"] == b"custom 1/4")
    await aredis.xdel(key(result.task_id), first)
    events = await asyncio.to_thread(lambda: list(client.events(result.task_id)))
    assert [event.type for event in events] == ["state", "node", "node", "end"]


async def test_event_over_the_limit_says_how_long_it_was(redis_url, client, aredis, monkeypatch):
    monkeypatch.setattr("langgraph_rq.worker.task.events.EVENT_BYTES", 50_000)

    async def long(_state):
        get_stream_writer()("x" * 50_000)

    async with worker(redis_url, {"g": one_node_graph(long, Number)}):
        _, events = await events_of(client, aredis, ["custom"])
    (custom,) = [data for kind, data in events if kind == "custom"]
    assert custom == {"attempt": 1, "omitted_bytes": 50_000 + len('{"attempt":1,"data":""}')}


async def test_fault_in_what_is_shown_of_a_run_does_not_end_it(redis_url, client, aredis, monkeypatch, lines):
    async def refuse(*_arguments, **_data):
        raise RuntimeError

    monkeypatch.setattr("langgraph_rq.worker.task.events.TaskEvents.add", refuse)
    async with worker(redis_url, {"g": two_nodes()}):
        result, _ = await events_of(client, aredis, ["values"])
    assert (result.status, result.result) == (State.SUCCESS, {"n": 3})
    assert {line["error"] for line in lines.named("events.dropped")} == {"RuntimeError"}


async def test_what_json_cannot_carry_does_not_fail_its_task(redis_url, client, aredis):
    async def odd(_state):
        get_stream_writer()({"nan": float("nan"), "object": object})

    async with worker(redis_url, {"g": one_node_graph(odd, Number)}):
        result, events = await events_of(client, aredis, ["custom"])
    (custom,) = [data for kind, data in events if kind == "custom"]
    assert result.status is State.SUCCESS
    assert custom["data"] == {"nan": None, "object": "<class 'object'>"}


async def test_task_whose_events_come_faster_than_redis_takes_them_waits_for_it(aredis, monkeypatch):
    monkeypatch.setattr("langgraph_rq.worker.task.events._WAITING_BYTES", 3 * PART_BYTES)
    writer = EventWriter(aredis)
    events = writer.open(claim(*await running(aredis)), "w")
    most = 0
    for _ in range(40):
        await events.add(EventType.CUSTOM, data="x" * PART_BYTES)
        most = max(most, writer.waiting_bytes)
    await events.flush()
    assert most < 5 * PART_BYTES
    assert writer.waiting_bytes == 0
    assert await aredis.xlen("agent:events:t") == 1 + 2 * 40


async def test_events_are_dropped_in_a_long_outage_instead_of_holding_the_task_up(monkeypatch):
    monkeypatch.setattr("langgraph_rq.worker.task.events._WAITING_BYTES", 3 * PART_BYTES)
    monkeypatch.setattr("langgraph_rq.worker.task.events._ROOM_S", 0.2)
    with EmbeddedRedis(appendfsync="always") as server:
        async with open_async(server.url) as redis:
            events = EventWriter(redis).open(claim(*await running(redis)), "w")
            server.kill()
            for n in range(200):
                await events.add(EventType.CUSTOM, n=n, data="x" * PART_BYTES)
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(events.flush(), 20)
            await events.add(EventType.CUSTOM, n=200)
            await events.flush()
            entries = [read_event(entry) for entry in await redis.xrange("agent:events:t")]
    parts = Parts()
    found = [event.data["n"] for event in map(parts.join, entries[1:]) if event]
    assert found == [*range(len(found) - 1), 200]
    assert 1 < len(found) < 10


def claim(task_id: str, epoch: int):
    """As much of a claimed task as events need."""
    return SimpleNamespace(id=task_id, epoch=epoch)


async def running(aredis, task_id="t", epoch=1) -> tuple[str, int]:
    await aredis.hset(f"agent:task:{task_id}", mapping={"state": "running", "epoch": epoch, "owner": "w"})
    await aredis.xadd(f"agent:events:{task_id}", {"type": "state", "data": "{}"})
    await aredis.expire(f"agent:task:{task_id}", 60)
    await aredis.expire(f"agent:events:{task_id}", 60)
    return task_id, epoch


async def script_calls(aredis) -> int:
    return (await aredis.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]


async def test_worker_that_lost_the_task_adds_nothing(aredis):
    claimed = await running(aredis, epoch=2)
    stale = ("t", 1)
    assert await scripts.run(aredis, append_call(*stale, "w", 0, [("custom", b"{}")])) == -1
    assert await scripts.run(aredis, append_call(*claimed, "other", 0, [("custom", b"{}")])) == -1
    assert await aredis.xlen("agent:events:t") == 1


async def test_ended_task_gets_no_event_after_its_end(aredis):
    claimed = await running(aredis)
    await aredis.hset("agent:task:t", "state", "success")
    assert await scripts.run(aredis, append_call(*claimed, "w", 0, [("custom", b"{}")])) == -1


async def test_call_that_is_repeated_after_a_lost_reply_adds_only_what_is_new(aredis):
    claimed = await running(aredis)
    events = [("custom", b"%d" % n) for n in range(5)]
    assert await scripts.run(aredis, append_call(*claimed, "w", 0, events[:2])) == 2
    assert await scripts.run(aredis, append_call(*claimed, "w", 0, events[:4])) == 4
    assert await scripts.run(aredis, append_call(*claimed, "w", 4, events[4:])) == 5
    found = [read_event(entry).text for entry in await aredis.xrange("agent:events:t")]
    assert found == ["{}", "0", "1", "2", "3", "4"]


async def test_next_attempt_counts_its_events_anew(aredis):
    claimed = await running(aredis)
    await scripts.run(aredis, append_call(*claimed, "w", 0, [("custom", b"1")]))
    again = await running(aredis, epoch=2)
    assert await scripts.run(aredis, append_call(*again, "w", 0, [("custom", b"2")])) == 1
    assert [read_event(entry).text for entry in await aredis.xrange("agent:events:t")] == ["{}", "1", "{}", "2"]


async def test_stream_that_is_forgotten_is_not_made_again(aredis):
    claimed = await running(aredis)
    await aredis.delete("agent:events:t")
    await scripts.run(aredis, append_call(*claimed, "w", 0, [("custom", b"1")]))
    assert not await aredis.exists("agent:events:t")


async def test_events_wait_for_a_redis_that_is_away_and_come_once_and_in_order():
    with EmbeddedRedis(appendfsync="always") as server:
        async with open_async(server.url) as redis:
            events = EventWriter(redis).open(claim(*await running(redis)), "w")
            for n in range(50):
                await events.add(EventType.CUSTOM, n=n)
                await asyncio.sleep(0)
                if n == 25:
                    await events.flush()
                    server.kill()
            flushed = asyncio.create_task(events.flush())
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(flushed, 20)
            found = [read_event(entry).data for entry in await redis.xrange("agent:events:t")]
    assert found[1:] == [{"attempt": 1, "n": n} for n in range(50)]


async def test_masked_messages_keep_their_blocks_and_fields(aredis):
    await running(aredis)
    events = Redaction(Redactor()).events(EventWriter(aredis), claim("t", 1), "w")

    def chunk(text: str, **fields: Any) -> AIMessageChunk:
        block = {"type": "text", "text": text, "index": 0}
        return AIMessageChunk([block, {"type": "thinking", "thinking": "of bob@example.com"}], id="1", **fields)

    metadata = {"langgraph_node": "n", "user": "eve@example.com"}
    for message in (chunk("to ada@exa"), chunk("mple.com now", chunk_position="last"), AIMessage("plain", id="2")):
        await events.add(EventType.MESSAGES, node="n", message=message, metadata=metadata)
    await events.flush()
    found = [read_event(entry).data for entry in (await aredis.xrange("agent:events:t"))[1:]]
    blocks = [one["message"]["content"] for one in found[:-1]]
    assert "".join(block[0]["text"] for block in blocks) == "to [email] now"
    assert {block[0]["index"] for block in blocks} == {0}
    assert [one for block in blocks for one in block[1:]] == [{"type": "thinking", "thinking": "of [email]"}] * 2
    assert found[-1]["message"] == {**as_json(AIMessage("plain", id="2"))}
    assert [one["metadata"] for one in found] == [{"langgraph_node": "n", "user": "[email]"}] * len(found)


async def test_events_of_all_tasks_of_a_process_share_round_trips(aredis):
    writer = EventWriter(aredis)
    tasks = [f"t{n}" for n in range(20)]
    for task in tasks:
        await running(aredis, task)
    before = await script_calls(aredis)
    opened = [writer.open(claim(task, 1), "w") for task in tasks]
    for _ in range(100):
        for events in opened:
            await events.add(EventType.CUSTOM, data="token")
    await asyncio.gather(*(events.flush() for events in opened))
    assert await script_calls(aredis) - before <= len(tasks) * 5
    assert {await aredis.xlen(f"agent:events:{task}") for task in tasks} == {101}

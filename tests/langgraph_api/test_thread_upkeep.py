"""LangGraph's stock SDK copies, prunes and makes threads with a history through our gateway."""

from urllib.parse import unquote

import pytest
from langgraph_sdk.errors import APIStatusError, BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError
from redis import Redis

from langgraph_rq import AsyncClient, ThreadBusyError
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.upkeep import sweep_call
from tests.langgraph_api.servers import serving

UNKNOWN = "00000000-0000-4000-8000-000000000000"
SLOW = {"name": "a", "ticks": 500, "tick_s": 0.1}


@pytest.fixture
async def sdk(redis_url, redis_client):
    async with serving(redis_url, redis_client) as client:
        yield client


async def ran(sdk, graph="nested", **given) -> str:
    """Make a thread that a graph has run on."""
    thread = await sdk.threads.create(metadata={"topic": "copies"})
    await sdk.runs.wait(thread["thread_id"], graph, input=given or {"value": 1})
    return thread["thread_id"]


def untold(states) -> list:
    """Leave out what names the thread."""
    return [(one["values"], one["next"], one["checkpoint"]["checkpoint_id"]) for one in states]


async def test_copy_has_the_states_and_the_metadata_and_none_of_the_runs(sdk):
    source = await ran(sdk)
    copied = await sdk.threads.copy(source)
    copy, original = copied["thread_id"], await sdk.threads.get(source)
    assert copy != source
    assert (copied["values"], copied["status"]) == (original["values"], "idle")
    assert copied["metadata"] == original["metadata"]
    assert untold(await sdk.threads.get_history(copy)) == untold(await sdk.threads.get_history(source))
    assert {one["metadata"]["thread_id"] for one in await sdk.threads.get_history(copy)} == {copy}
    assert await sdk.runs.list(copy) == []
    assert {one["thread_id"] for one in await sdk.threads.search(metadata={"topic": "copies"})} == {source, copy}


async def test_copy_and_its_source_go_on_each_for_itself(sdk):
    source = await ran(sdk, "ask", topic="lunch")
    copy = (await sdk.threads.copy(source))["thread_id"]
    assert (await sdk.threads.get(copy))["status"] == "interrupted"
    answered = await sdk.runs.wait(copy, "ask", command={"resume": "yes"})
    assert answered["answer"] == "yes"
    assert (await sdk.threads.get(source))["status"] == "interrupted"
    assert (await sdk.runs.wait(source, "ask", command={"resume": "no"}))["answer"] == "no"
    assert (await sdk.threads.get_state(copy))["values"]["answer"] == "yes"


async def test_thread_without_runs_is_copied_and_an_unknown_one_is_not(sdk):
    thread = await sdk.threads.create(metadata={"a": 1})
    copied = await sdk.threads.copy(thread["thread_id"])
    assert (copied["metadata"], copied["values"], copied["status"]) == ({"a": 1}, None, "idle")
    with pytest.raises(NotFoundError):
        await sdk.threads.copy(UNKNOWN)


async def test_pruned_thread_keeps_its_newest_state_or_is_gone(sdk):
    kept, deleted, unused = await ran(sdk), await ran(sdk), (await sdk.threads.create())["thread_id"]
    state = await sdk.threads.get_state(kept)
    assert await sdk.threads.prune([kept, UNKNOWN], strategy="keep_latest") == {"pruned_count": 1}
    assert untold(await sdk.threads.get_history(kept)) == untold([state])
    assert (await sdk.runs.wait(kept, "nested", input={"value": 2}))["value"] == 30
    assert await sdk.threads.prune([deleted, unused, UNKNOWN]) == {"pruned_count": 2}
    for thread in (deleted, unused):
        with pytest.raises(NotFoundError):
            await sdk.threads.get(thread)
    assert (await sdk.threads.create(thread_id=deleted))["values"] is None
    assert (await sdk.threads.get_state(deleted))["values"] == {}


async def test_busy_thread_is_neither_copied_nor_pruned_and_nothing_else_of_the_request_is(sdk, redis_url):
    idle, busy = await ran(sdk), (await sdk.threads.create())["thread_id"]
    run = await sdk.runs.create(busy, "slow", input=SLOW)
    for refused in (sdk.threads.copy(busy), sdk.threads.prune([idle, busy])):
        with pytest.raises(ConflictError):
            await refused
    async with AsyncClient(redis_url) as client:
        with pytest.raises(ThreadBusyError):
            await client.threads.copy(busy, graph="slow")
        assert await client.threads.prune([busy], graph="slow") == []
    assert await sdk.threads.get_history(idle)
    assert await sdk.threads.count() == 2
    await sdk.runs.cancel(busy, run["run_id"], wait=True)
    assert (await sdk.threads.copy(busy))["status"] == "interrupted"


async def test_thread_is_made_with_a_history_that_is_gone_on_from(sdk):
    steps = [("__input__", {"value": 3}), ("__start__", {"value": 3}), ("outer", {"steps": ["outer!"]})]
    made = await sdk.threads.create(
        graph_id="nested", supersteps=[{"updates": [{"as_node": node, "values": values}]} for node, values in steps]
    )
    state = await sdk.threads.get_state(made["thread_id"])
    assert (made["values"], made["status"], state["next"]) == (
        {"value": 3, "steps": ["outer!"]},
        "interrupted",
        ["child"],
    )
    assert len(await sdk.threads.get_history(made["thread_id"])) == 3
    ended = await sdk.runs.wait(made["thread_id"], "nested", input=None)
    assert (ended["value"], ended["steps"]) == (40, ["outer!", "outer!", "inner_one", "inner_two"])


async def test_history_that_the_graph_does_not_take_makes_no_thread(sdk):
    good = {"updates": [{"values": {"value": 3}, "as_node": "__input__"}]}
    bad = {"updates": [{"values": {}, "as_node": "nobody"}]}
    for graph, error in ({"graph_id": "nested"}, UnprocessableEntityError), ({}, BadRequestError):
        with pytest.raises(error):
            await sdk.threads.create(thread_id=UNKNOWN, supersteps=[good, bad], **graph)
        with pytest.raises(NotFoundError):
            await sdk.threads.get(UNKNOWN)
    await sdk.threads.create(thread_id=UNKNOWN)
    await sdk.runs.wait(UNKNOWN, "nested", input={"value": 1})
    assert len(await sdk.threads.get_history(UNKNOWN, limit=50)) == len(
        await sdk.threads.get_history(await ran(sdk), limit=50)
    )
    with pytest.raises(APIStatusError):
        await sdk.threads.create(graph_id="nested", supersteps=[{"updates": []}])


async def test_thread_with_a_ttl_goes_with_its_state_that_long_after_its_last_run(sdk, redis_client):
    made = await sdk.threads.create(ttl=5)
    keys = [
        f"agent:{kind}:{made['thread_id']}" for kind in ("thread_row", "thread_runs", "thread_state", "thread_index")
    ]

    def minutes_left() -> set[int]:
        return {round(redis_client.pttl(key) / 60_000) for key in keys if redis_client.exists(key)}

    assert minutes_left() == {5}
    run = await sdk.runs.create(made["thread_id"], "slow", input=SLOW)
    assert min(minutes_left()) > 5  # it does not expire under a run
    assert (await sdk.threads.get(made["thread_id"], include=["ttl"]))["ttl"]["expires_at"] is None
    await sdk.runs.cancel(made["thread_id"], run["run_id"], wait=True)
    assert (len(redis_client.keys(f"*{made['thread_id']}")), minutes_left()) == (4, {5})
    await sdk.threads.update_state(made["thread_id"], {"name": "b"})
    with pytest.raises(BadRequestError):
        await sdk.threads.update_state(made["thread_id"], {"name": "c"}, as_node="no such node")
    copy = (await sdk.threads.copy(made["thread_id"]))["thread_id"]
    assert minutes_left() == {5}
    assert {round(redis_client.pttl(key) / 60_000) for key in redis_client.keys(f"*{copy}")} == {5}


async def test_thread_does_not_expire_before_a_run_that_is_to_start_later(sdk, redis_url, redis_client):
    def sweep() -> int:
        with Redis.from_url(redis_url) as redis:
            scripts.run_sync(redis, sweep_call())
        return redis_client.pttl(row)

    thread = (await sdk.threads.create(ttl=5))["thread_id"]
    before = await sdk.runs.wait(thread, "nested", input={"value": 1})
    later = await sdk.runs.create(thread, "nested", input=None, after_seconds=86_400)
    row, *others = (f"agent:thread_{kind}:{thread}" for kind in ("row", "runs", "state", "index"))
    for key in (row, *others):
        redis_client.pexpire(key, 30_000)  # as they are after nearly 5 minutes, or a week
    redis_client.zadd("agent:threads:default", {thread: 1})
    assert 3_000_000 < sweep() <= 3_600_000
    assert min(redis_client.pttl(key) for key in others) > 3_000_000
    await sdk.threads.create()  # which takes those from the list that were used too long ago
    assert thread in [one["thread_id"] for one in await sdk.threads.search()]
    assert (await sdk.threads.get_state(thread))["values"] == before
    redis_client.pexpire(row, 7_200_000)
    assert sweep() > 3_600_000  # a longer time is not cut
    await sdk.runs.cancel(thread, later["run_id"], wait=True)
    assert sweep() <= 300_000


async def test_ttl_is_changed_and_told(sdk, redis_client):
    thread = await ran(sdk)
    assert (await sdk.threads.get(thread, include=["ttl"]))["ttl"] is None
    await sdk.threads.update(thread, metadata={}, ttl={"ttl": 10, "strategy": "delete"})
    told = (await sdk.threads.get(thread, include=["ttl"]))["ttl"]
    assert (told["strategy"], told["ttl_minutes"]) == ("delete", 10)
    assert {round(redis_client.pttl(key) / 60_000) for key in redis_client.keys(f"agent:thread_*:{thread}")} == {10}
    assert (await sdk.threads.get(thread))["metadata"]["topic"] == "copies"
    for refused in ({"ttl": 20_000}, {"ttl": 0}, {"ttl": 5, "strategy": "keep_latest"}):
        with pytest.raises(UnprocessableEntityError):
            await sdk.threads.create(ttl=refused)


async def test_storage_is_told_per_channel(sdk, redis_url):
    thread, unused = (
        await ran(sdk, "slow", name=" ".join(map(str, range(5_000))), ticks=0, log=[]),
        await sdk.threads.create(),
    )
    http = sdk.http.client
    told = (await http.get(f"/threads/{thread}/storage")).json()
    sections = [told[name]["bytes"] for name in ("checkpoints", "channel_values", "pending_writes")]
    assert (told["thread_id"], told["total_bytes"]) == (thread, sum(sections))
    assert told["checkpoints"]["count"] == len(await sdk.threads.get_history(thread))
    assert told["channel_values"]["bytes"] > told["channel_values"]["by_channel"]["name"]["bytes"] > 1_000
    assert (await http.get(f"/threads/{unused['thread_id']}/storage")).json()["total_bytes"] == 0
    assert (await http.get(f"/threads/{UNKNOWN}/storage")).status_code == 404


async def test_thread_is_busy_while_an_older_run_is_still_to_start(sdk):
    thread = (await sdk.threads.create())["thread_id"]
    await sdk.runs.create(thread, "nested", input={"value": 1}, after_seconds=3_600)
    newest = await sdk.runs.create(thread, "nested", input={"value": 1}, after_seconds=3_600)
    await sdk.runs.cancel(thread, newest["run_id"], wait=True)
    assert (await sdk.threads.get(thread))["status"] == "busy"
    assert [one["thread_id"] for one in await sdk.threads.search(status="busy")] == [thread]
    with pytest.raises(ConflictError):
        await sdk.threads.copy(thread)


async def test_run_that_is_refused_makes_no_thread(sdk):
    with pytest.raises(UnprocessableEntityError):
        await sdk.runs.create(UNKNOWN, "no such graph", input={}, if_not_exists="create")
    with pytest.raises(NotFoundError):
        await sdk.threads.get(UNKNOWN)


async def test_thread_with_any_characters_runs_and_says_where(sdk):
    thread = (await sdk.threads.create(thread_id="日本 ?#ü"))["thread_id"]
    located = []
    values = await sdk.runs.wait(thread, "nested", input={"value": 1}, on_run_created=located.append)
    assert values
    assert unquote(located[0]["thread_id"]) == thread


@pytest.mark.parametrize("before", [{"configurable": 5}, {"configurable": "x"}])
async def test_history_before_what_is_no_checkpoint_is_refused(sdk, before):
    with pytest.raises(UnprocessableEntityError, match="checkpoint: expected"):
        await sdk.threads.get_history(await ran(sdk), before=before)


async def test_threads_that_are_asked_for_by_id_are_sorted_before_they_are_cut(sdk):
    ids = [(await sdk.threads.create())["thread_id"] for _ in range(105)]
    found = await sdk.threads.search(ids=ids, limit=2, extract={"nothing": "values."})
    assert [one["thread_id"] for one in found] == ids[:-3:-1]
    assert found[0]["extracted"] == {"nothing": None}


async def test_thread_that_names_its_graph_can_be_written_to_before_any_run(sdk):
    thread = (await sdk.threads.create(graph_id="nested"))["thread_id"]
    await sdk.threads.update_state(thread, {"value": 2}, as_node="outer")
    found, state = await sdk.threads.get(thread), await sdk.threads.get_state(thread)
    assert (found["status"], found["values"]) == ("interrupted", {"value": 2, "steps": []})
    assert state["next"] == ["child"]
    assert (await sdk.runs.wait(thread, "nested", input=None))["value"] == 30
    with pytest.raises(BadRequestError, match="its graph is unknown"):
        await sdk.threads.update_state((await sdk.threads.create())["thread_id"], {"value": 2})


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"values": {"steps": "no list"}}, "TypeError: can only concatenate list"),
        ({"values": {"value": 1}, "checkpoint_id": UNKNOWN}, "checkpoint_id: expected that of a checkpoint"),
    ],
)
async def test_update_that_cannot_be_applied_is_refused_and_changes_nothing(sdk, update, said):
    thread = await ran(sdk)
    before = untold(await sdk.threads.get_history(thread))
    with pytest.raises(BadRequestError, match=said):
        await sdk.threads.update_state(thread, **update)
    assert untold(await sdk.threads.get_history(thread)) == before

"""Script calls that share round trips."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.shared.connections import kept_connection, scripts
from langgraph_rq.shared.connections.batching import RoundTrips
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

PUSH = scripts.make_script("push", "redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")
FAIL = scripts.make_script("fail", "return redis.error_reply('ERR no')")

PAUSE_MS = 50


def _push(value):
    return scripts.Call(PUSH, ["pushed"], [value], bytes.decode)


async def test_calls_run_in_the_order_in_which_they_were_asked_for(aredis):
    trips = RoundTrips(aredis)
    values = [str(n) for n in range(100)]
    assert await asyncio.gather(*(trips.run(_push(value)) for value in values)) == values
    assert [value.decode() for value in await aredis.lrange("pushed", 0, -1)] == values
    await aredis.delete("pushed")


async def test_calls_that_arrive_together_share_round_trips(aredis):
    trips = RoundTrips(aredis)
    await trips.run(_push("first"))
    trips_before = (await aredis.info("stats"))["total_reads_processed"]
    await asyncio.gather(*(trips.run(_push(str(n))) for n in range(64)))
    trips_after = (await aredis.info("stats"))["total_reads_processed"]
    assert trips_after - trips_before < 32
    await aredis.delete("pushed")


async def test_call_that_fails_leaves_the_others_alone(aredis):
    trips = RoundTrips(aredis)
    failing, pushing = trips.run(scripts.Call(FAIL, [], [], int)), trips.run(_push("on"))
    failed, pushed = await asyncio.gather(failing, pushing, return_exceptions=True)
    assert isinstance(failed, ResponseError)
    assert pushed == "on"
    await aredis.delete("pushed")


@pytest.mark.parametrize(
    "broken",
    [scripts.Call(PUSH, ["pushed"], ["\ud800"], bytes.decode), scripts.Call(PUSH, ["pushed"], ["no number"], int)],
    ids=["that cannot be sent", "whose answer cannot be read"],
)
async def test_call_is_no_matter_of_the_others_that_share_its_round_trip(aredis, broken):
    trips = RoundTrips(aredis)
    calls = [_push("lone"), _push("before"), broken, _push("after")]
    answers = await asyncio.gather(*(trips.run(call) for call in calls), return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == ["lone", "before", "after"]
    assert isinstance(answers[2], ValueError)
    await aredis.delete("pushed")


async def test_call_whose_caller_has_gone_is_not_sent(aredis):
    trips = RoundTrips(aredis)
    await trips.run(_push("connected"))
    lone, joined = (asyncio.create_task(trips.run(_push(value))) for value in ("lone", "joined"))
    await asyncio.sleep(0)
    joined.cancel()
    await lone
    await trips.run(_push("next"))
    assert await aredis.lrange("pushed", 0, -1) == [b"connected", b"lone", b"next"]
    await aredis.delete("pushed")


async def test_caller_that_is_cancelled_leaves_no_answer_behind_for_the_next(aredis):
    trips = RoundTrips(aredis)
    await trips.run(_push("connected"))
    await aredis.client_pause(PAUSE_MS)
    lone, joined, last = (asyncio.create_task(trips.run(_push(value))) for value in ("lone", "joined", "last"))
    await asyncio.sleep(0)
    lone.cancel()
    joined.cancel()
    assert await last == "last"
    assert await trips.run(_push("next")) == "next"
    assert lone.cancelled()
    assert joined.cancelled()
    await aredis.delete("pushed")


async def test_caller_that_is_cancelled_while_it_connects_is_not_answered(redis_url, aredis):
    for turns in range(40):
        async with open_async(redis_url) as client:
            caller = asyncio.create_task(RoundTrips(client).run(_push("late")))
            for _ in range(turns):
                await asyncio.sleep(0)
            is_under_way = caller.cancel()
            await asyncio.wait([caller])
            assert caller.cancelled() == is_under_way
    await aredis.delete("pushed")


async def test_answer_that_does_not_come_in_time_is_an_outage_and_belongs_to_nobody_else(aredis, redis_url):
    async with open_async(redis_url, timeout_s=1) as impatient:
        trips = RoundTrips(impatient)
        await trips.run(_push("connected"))
        await aredis.client_pause(60_000, all=False)
        try:
            with pytest.raises(RedisTimeoutError):
                await trips.run(_push("late"))
        finally:
            await aredis.client_unpause()
        assert await trips.run(_push("next")) == "next"
    await aredis.delete("pushed")


async def test_second_caller_of_a_kept_connection_is_refused_and_the_first_gets_its_replies(aredis):
    connection = KeptConnection(aredis)
    first, second = await asyncio.gather(
        connection.exchange([("ECHO", "one")]), connection.exchange([("ECHO", "two")]), return_exceptions=True
    )
    await connection.release()
    assert first == [b"one"]
    assert isinstance(second, RuntimeError)


async def test_connection_that_broke_is_replaced(aredis, monkeypatch):
    monkeypatch.setattr(kept_connection, "_KEPT_S", 60.0)
    trips = RoundTrips(aredis)
    await trips.run(_push("connected"))
    await aredis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RedisConnectionError):
        await trips.run(_push("lost"))
    assert await trips.run(_push("found")) == "found"
    assert await aredis.lrange("pushed", 0, -1) == [b"connected", b"found"]
    await aredis.delete("pushed")


async def test_connection_that_the_server_closed_in_a_pause_is_no_error(aredis, monkeypatch):
    monkeypatch.setattr(kept_connection, "_KEPT_S", 0.0)
    trips = RoundTrips(aredis)
    await trips.run(_push("connected"))
    await aredis.client_kill_filter(_type="normal", skipme=True)
    assert await trips.run(_push("found")) == "found"
    await aredis.delete("pushed")


async def test_primary_that_became_a_replica_is_not_asked_again_when_its_name_leads_elsewhere(tmp_path):
    name = tmp_path / "primary"
    with EmbeddedRedis() as old, EmbeddedRedis() as new:
        name.symlink_to(old.directory / "redis.sock")
        async with open_async(f"unix://{name}") as client:
            trips = RoundTrips(client)
            await trips.run(_push("connected"))
            await client.replicaof("127.0.0.1", 1)
            name.unlink()
            name.symlink_to(new.directory / "redis.sock")
            with pytest.raises(ReadOnlyError):
                await trips.run(_push("refused"))
            assert await trips.run(_push("written")) == "written"


async def test_every_caller_hears_of_a_broken_connection():
    async with open_async("redis://127.0.0.1:1/0") as nobody:
        trips = RoundTrips(nobody)
        answers = await asyncio.gather(*(trips.run(_push(str(n))) for n in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RedisConnectionError] * 3

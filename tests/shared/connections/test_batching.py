"""Script calls that share round trips, and the connection that is kept between them."""

import asyncio
import os
import signal
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.shared.backoff import Backoff
from langgraph_rq.shared.connections import kept_connection, scripts
from langgraph_rq.shared.connections.batching import Batcher, Retry
from langgraph_rq.shared.connections.clients import is_outage, open_async
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.waiting import until

PUSH = scripts.make_script("push", "redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]")
FAIL = scripts.make_script("fail", "return redis.error_reply('ERR no')")

PAUSE_MS = 50


def _push(value):
    return scripts.Call(PUSH, ["pushed"], [value], bytes.decode)


async def test_calls_run_in_the_order_in_which_they_were_asked_for(aredis):
    batcher = Batcher(aredis)
    values = [str(n) for n in range(100)]
    assert await asyncio.gather(*(batcher.run(_push(value)) for value in values)) == values
    assert [value.decode() for value in await aredis.lrange("pushed", 0, -1)] == values
    await aredis.delete("pushed")


async def test_calls_that_arrive_together_share_round_trips(aredis):
    batcher = Batcher(aredis)
    await batcher.run(_push("first"))
    trips_before = (await aredis.info("stats"))["total_reads_processed"]
    await asyncio.gather(*(batcher.run(_push(str(n))) for n in range(64)))
    trips_after = (await aredis.info("stats"))["total_reads_processed"]
    assert trips_after - trips_before < 32
    await aredis.delete("pushed")


async def test_call_that_fails_leaves_the_others_alone(aredis):
    batcher = Batcher(aredis)
    failing, pushing = batcher.run(scripts.Call(FAIL, [], [], int)), batcher.run(_push("on"))
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
    batcher = Batcher(aredis)
    calls = [_push("lone"), _push("before"), broken, _push("after")]
    answers = await asyncio.gather(*(batcher.run(call) for call in calls), return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == ["lone", "before", "after"]
    assert isinstance(answers[2], ValueError)
    await aredis.delete("pushed")


async def test_call_whose_caller_has_gone_is_not_sent(aredis):
    batcher = Batcher(aredis)
    await batcher.run(_push("connected"))
    lone, joined = (asyncio.create_task(batcher.run(_push(value))) for value in ("lone", "joined"))
    await asyncio.sleep(0)
    joined.cancel()
    await lone
    await batcher.run(_push("next"))
    assert await aredis.lrange("pushed", 0, -1) == [b"connected", b"lone", b"next"]
    await aredis.delete("pushed")


async def test_caller_that_is_cancelled_leaves_no_answer_behind_for_the_next(aredis):
    batcher = Batcher(aredis)
    await batcher.run(_push("connected"))
    await aredis.client_pause(PAUSE_MS)
    lone, joined, last = (asyncio.create_task(batcher.run(_push(value))) for value in ("lone", "joined", "last"))
    await asyncio.sleep(0)
    lone.cancel()
    joined.cancel()
    assert await last == "last"
    assert await batcher.run(_push("next")) == "next"
    assert lone.cancelled()
    assert joined.cancelled()
    await aredis.delete("pushed")


async def test_caller_that_is_cancelled_while_it_connects_is_not_answered(redis_url, aredis):
    for turns in range(40):
        async with open_async(redis_url) as client:
            caller = asyncio.create_task(Batcher(client).run(_push("late")))
            for _ in range(turns):
                await asyncio.sleep(0)
            is_under_way = caller.cancel()
            await asyncio.wait([caller])
            assert caller.cancelled() == is_under_way
    await aredis.delete("pushed")


async def test_answer_that_does_not_come_in_time_is_an_outage_and_belongs_to_nobody_else(aredis, redis_url):
    async with open_async(redis_url, timeout_s=1) as impatient:
        batcher = Batcher(impatient)
        await batcher.run(_push("connected"))
        await aredis.client_pause(60_000, all=False)
        try:
            with pytest.raises(RedisTimeoutError):
                await batcher.run(_push("late"))
        finally:
            await aredis.client_unpause()
        assert await batcher.run(_push("next")) == "next"
    await aredis.delete("pushed")


async def test_each_round_trip_has_the_whole_time_for_its_answer(redis_url):
    async with open_async(redis_url, timeout_s=1) as impatient:
        connection = KeptConnection(impatient)
        for _ in range(6):
            assert await connection.exchange([("BLPOP", "nothing", 0.25)]) == [None]
        await connection.release()


async def test_second_caller_of_a_kept_connection_is_refused_and_the_first_gets_its_replies(aredis):
    connection = KeptConnection(aredis)
    first, second = await asyncio.gather(
        connection.exchange([("ECHO", "one")]), connection.exchange([("ECHO", "two")]), return_exceptions=True
    )
    await connection.release()
    assert first == [b"one"]
    assert isinstance(second, RuntimeError)


async def test_connection_is_free_again_after_a_command_for_which_memory_was_missing(aredis, monkeypatch):
    connection, pack = KeptConnection(aredis), kept_connection._pack

    def fail(_command):
        monkeypatch.setattr(kept_connection, "_pack", pack)
        raise MemoryError

    monkeypatch.setattr(kept_connection, "_pack", fail)
    with pytest.raises(MemoryError):
        await connection.exchange([("ECHO", "large")])
    assert await connection.exchange([("ECHO", "small")]) == [b"small"]
    await connection.release()


async def test_connection_that_broke_is_replaced(aredis, monkeypatch):
    monkeypatch.setattr(kept_connection, "_KEPT_S", 60.0)
    batcher = Batcher(aredis)
    await batcher.run(_push("connected"))
    await aredis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RedisConnectionError):
        await batcher.run(_push("lost"))
    assert await batcher.run(_push("found")) == "found"
    assert await aredis.lrange("pushed", 0, -1) == [b"connected", b"found"]
    await aredis.delete("pushed")


async def test_connection_that_the_server_closed_in_a_pause_is_no_error(aredis, monkeypatch):
    monkeypatch.setattr(kept_connection, "_KEPT_S", 0.0)
    batcher = Batcher(aredis)
    await batcher.run(_push("connected"))
    await aredis.client_kill_filter(_type="normal", skipme=True)
    assert await batcher.run(_push("found")) == "found"
    await aredis.delete("pushed")


async def test_primary_that_became_a_replica_is_not_asked_again_when_its_name_leads_elsewhere(tmp_path):
    name = tmp_path / "primary"
    with EmbeddedRedis() as old, EmbeddedRedis() as new:
        name.symlink_to(old.directory / "redis.sock")
        async with open_async(f"unix://{name}") as client:
            batcher = Batcher(client)
            await batcher.run(_push("connected"))
            await client.replicaof("127.0.0.1", 1)
            name.unlink()
            name.symlink_to(new.directory / "redis.sock")
            with pytest.raises(ReadOnlyError):
                await batcher.run(_push("refused"))
            assert await batcher.run(_push("written")) == "written"


async def test_script_that_may_not_be_loaded_fails_its_own_calls_only(redis_url, redis_client):
    new = scripts.make_script("new", "return 'new'")
    redis_client.script_load(PUSH.source)
    redis_client.acl_setuser(
        "p", enabled=True, nopass=True, categories=["+@all"], commands=["-script|load"], keys=["*"]
    )
    async with open_async(redis_url.replace("://", "://p:any@")) as redis:
        batcher = Batcher(redis)
        calls = [_push("1"), _push("2"), scripts.Call(new, [], [], bytes.decode), _push("3")]
        answers = await asyncio.gather(*(batcher.run(call) for call in calls), return_exceptions=True)
    assert isinstance(answers.pop(2), scripts.ScriptNotLoadedError)
    assert answers == ["1", "2", "3"]
    redis_client.delete("pushed")


@contextmanager
def _frozen(redis):
    pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_server_that_does_not_answer_keeps_no_caller_waiting_for_the_time_of_others():
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        async with open_async(server.url, timeout_s=2) as impatient:
            batcher = Batcher(impatient)
            await batcher.run(_push("connected"))
            with _frozen(redis):
                calls = [asyncio.create_task(batcher.run(_push(str(n)))) for n in range(200)]
                done, _ = await asyncio.wait(calls, timeout=15)  # one after another they would take 26 s
            assert len(done) == len(calls)
            assert all(is_outage(call.exception()) for call in calls)


class Building:
    """A source that builds its call when its turn comes."""

    def __init__(self) -> None:
        self.is_built, self.replies = False, []

    def next_call(self):
        self.is_built = True
        return _push("built")

    def take_reply(self, reply) -> bool:
        assert self.is_built
        self.replies.append(reply)
        return False


async def test_source_gets_no_reply_before_its_turn_from_a_server_that_does_not_answer():
    source = Building()
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        async with open_async(server.url, timeout_s=2) as impatient:
            batcher = Batcher(impatient, calls=1)
            await batcher.run(_push("connected"))
            with _frozen(redis):
                calls = [asyncio.create_task(batcher.run(_push(str(n)))) for n in range(3)]
                await asyncio.sleep(0)
                batcher.add(source)
                await asyncio.wait(calls)
            await until(lambda: source.replies)
    assert all(is_outage(call.exception()) for call in calls)


async def test_calls_that_a_batcher_cannot_send_any_more_fail_when_it_is_closed():
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        async with open_async(server.url) as client:
            batcher = Batcher(client)
            await batcher.run(_push("connected"))
            with _frozen(redis):
                calls = [asyncio.create_task(batcher.run(_push(str(n)))) for n in range(40)]
                await asyncio.sleep(0)
                calls[0].cancel()
                await asyncio.wait(calls[:1])
                await asyncio.sleep(0)
                await batcher.aclose(0.1)
                await asyncio.wait(calls, timeout=20)
            assert {type(call.exception()) for call in calls[1:]} == {RedisConnectionError}


async def test_batcher_that_is_closed_lets_a_lone_call_end_and_not_those_behind_it():
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        async with open_async(server.url) as client:
            batcher = Batcher(client)
            await batcher.run(_push("connected"))
            with _frozen(redis):
                lone, joined = (asyncio.create_task(batcher.run(_push(value))) for value in ("lone", "joined"))
                await asyncio.sleep(0)
                await batcher.aclose(0.1)
                await asyncio.wait([joined], timeout=20)
                assert isinstance(joined.exception(), RedisConnectionError)
                assert not lone.done()
                closing = asyncio.create_task(batcher.aclose(60))
                await asyncio.sleep(0)
            await closing
            assert lone.result() == "lone"


async def test_every_caller_hears_of_a_broken_connection():
    async with open_async("redis://127.0.0.1:1/0") as nobody:
        batcher = Batcher(nobody)
        answers = await asyncio.gather(*(batcher.run(_push(str(n))) for n in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RedisConnectionError] * 3


def _retrying(redis, **options) -> Batcher:
    return Batcher(redis, retry=Retry(is_outage, Backoff(0.01, 0.05), **options))


async def test_calls_of_a_retrying_batcher_wait_for_a_redis_that_is_away_and_run_in_order():
    delays = []
    with EmbeddedRedis() as server:
        async with open_async(server.url) as redis:
            batcher = _retrying(redis, on_delay=lambda calls, error: delays.append((calls, error)))
            await batcher.run(_push("before"))
            server.kill()
            late = [asyncio.create_task(batcher.run(_push(str(n)))) for n in range(40)]
            await until(lambda: delays)
            await asyncio.to_thread(server.start)
            assert await asyncio.gather(*late) == [str(n) for n in range(40)]
            pushed = [value.decode() for value in await redis.lrange("pushed", 0, -1)]
    assert pushed[-40:] == [str(n) for n in range(40)]
    assert all(calls <= 16 and is_outage(error) for calls, error in delays)


async def test_calls_that_take_too_long_for_one_round_trip_get_through_in_parts(aredis, monkeypatch):
    batcher, tried = _retrying(aredis), []
    exchange = batcher._connection.exchange

    async def exchange_few(commands):
        tried.append(len(commands))
        if len(commands) > 4:
            raise RedisTimeoutError("a slow network")
        return await exchange(commands)

    await batcher.run(_push("connected"))
    monkeypatch.setattr(batcher._connection, "exchange", exchange_few)
    async with asyncio.timeout(20):
        await asyncio.gather(*(batcher.run(_push(str(n))) for n in range(16)))
    assert tried[:3] == [16, 8, 4]
    await aredis.delete("pushed")


async def test_call_of_a_retrying_batcher_runs_also_when_its_caller_is_cancelled(aredis):
    batcher = _retrying(aredis)
    caller = asyncio.create_task(batcher.run(_push("kept")))
    await asyncio.sleep(0)
    caller.cancel()
    await batcher.drain(5)
    assert caller.cancelled()
    assert await aredis.lrange("pushed", 0, -1) == [b"kept"]
    await aredis.delete("pushed")


async def test_retrying_batcher_raises_an_error_of_the_call_at_once(aredis):
    with pytest.raises(ResponseError):
        await _retrying(aredis).run(scripts.Call(FAIL, [], [], int))


async def test_calls_that_are_sent_share_the_round_trip_of_the_next_and_their_errors_are_reported(aredis):
    refused = []
    batcher = Batcher(aredis, retry=Retry(is_outage), on_refused=refused.append)
    await batcher.run(_push("connected"))
    trips_before = (await aredis.info("stats"))["total_reads_processed"]
    batcher.send(_push("sent"), None, scripts.Call(FAIL, [], [], int))
    assert await batcher.run(_push("awaited")) == "awaited"
    trips_after = (await aredis.info("stats"))["total_reads_processed"]
    assert await aredis.lrange("pushed", 0, -1) == [b"connected", b"sent", b"awaited"]
    assert [type(error) for error in refused] == [ResponseError]
    assert trips_after - trips_before <= 3  # one for the calls, one or two for INFO and SCRIPT LOAD
    await aredis.delete("pushed")


class Words:
    """A source with a call for each word."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.replies: list[str] = []

    def next_call(self):
        return _push(self.words[0])

    def take_reply(self, reply) -> bool:
        self.replies.append(reply)
        self.words.pop(0)
        return bool(self.words)


async def test_sources_with_more_to_write_take_turns(aredis):
    batcher = Batcher(aredis, gather_s=0.001)
    long, short = Words("a", "b", "c"), Words("x")
    batcher.add(long)
    batcher.add(short)
    await batcher.drain(5)
    assert [value.decode() for value in await aredis.lrange("pushed", 0, -1)] == ["a", "x", "b", "c"]
    assert (long.replies, short.replies) == (["a", "b", "c"], ["x"])
    await aredis.delete("pushed")


async def test_hurry_ends_the_gathering_of_calls(aredis):
    batcher = Batcher(aredis, gather_s=600)
    batcher.send(_push("now"))
    batcher.hurry()
    await batcher.drain(5)
    assert await aredis.lrange("pushed", 0, -1) == [b"now"]
    await aredis.delete("pushed")


async def test_batcher_that_is_closed_writes_what_was_sent_at_once(aredis):
    batcher = Batcher(aredis, gather_s=600)
    batcher.send(_push("last"))
    await batcher.aclose(5)
    assert await aredis.lrange("pushed", 0, -1) == [b"last"]
    await aredis.delete("pushed")


async def test_batcher_that_is_closed_during_an_outage_leaves_its_client_alone():
    with EmbeddedRedis(appendfsync="always") as server:
        async with open_async(server.url) as redis:
            batcher = _retrying(redis)
            await batcher.run(_push("before"))
            server.kill()
            batcher.send(_push("never"))
            await batcher.aclose(0.05)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            server.start()
            assert await redis.lrange("pushed", 0, -1) == [b"before"]

"""The loader of the Lua scripts, and what every script promises in its header."""

import re
from importlib.resources import files

import pytest

from shared import lua
from shared.embedded_redis import EmbeddedRedis
from shared.line import Line
from shared.redis_clients import open_async

SCRIPTS = sorted(entry.name.removesuffix(".lua") for entry in files("shared").iterdir() if entry.name.endswith(".lua"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_names_exactly_the_slots_that_the_body_uses(name):
    source = lua.load_script(name).source
    header = "\n".join(line for line in source.splitlines() if line.startswith("--"))
    body = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))
    slot = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
    assert set(slot.findall(header)) == set(slot.findall(body))


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_says_what_the_script_returns(name):
    assert re.search(r"^-- Returns", lua.load_script(name).source, re.MULTILINE)


async def test_script_runs_on_a_server_that_never_saw_it(aredis):
    source = "return ARGV[1]"
    call = lua.Call(lua.make_script("echo", source), [], ["hello"], bytes.decode)
    await aredis.script_flush()
    assert await lua.run(aredis, call) == "hello"
    await aredis.script_flush()
    assert await lua.run_many(aredis, [call, call]) == ["hello", "hello"]


async def test_scripts_are_taught_and_run_in_one_round_trip_lest_they_are_forgotten_in_between():
    calls = [lua.Call(lua.make_script(name, f"return '{name}'"), [], [], bytes.decode) for name in ("one", "two")]
    # One of its own, which nobody else asks: its reads are counted.
    with EmbeddedRedis() as server:
        async with open_async(server.url) as redis, redis.client() as asking:
            line = Line(redis)
            await line.exchange([("PING",)])
            before = (await asking.info("stats"))["total_reads_processed"]
            assert await lua.run_many(line, calls) == ["one", "two"]
            after = (await asking.info("stats"))["total_reads_processed"]
            await line.release()
    assert after - before == len(("asked", "taught and asked again", "these statistics"))


async def test_one_failing_call_does_not_spoil_its_neighbours(aredis):
    good = lua.Call(lua.make_script("good", "return 1"), [], [], int)
    bad = lua.Call(lua.make_script("bad", "return redis.error_reply('BAD it broke')"), [], [], int)
    first, second, third = await lua.run_many(aredis, [good, bad, good])
    assert (first, third) == (1, 1)
    assert "it broke" in str(second)

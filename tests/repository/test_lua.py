"""The loader of the Lua scripts, and what every script promises in its header."""

import re

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.installation import ROOT

SCRIPTS = sorted(
    str(file.relative_to(ROOT).with_suffix(""))
    for part in ("shared", "worker")
    for file in (ROOT / part).rglob("*.lua")
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_names_exactly_the_slots_that_the_body_uses(name):
    source = scripts.load_script(name).source
    header = "\n".join(line for line in source.splitlines() if line.startswith("--"))
    body = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("--"))
    slot = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
    assert set(slot.findall(header)) == set(slot.findall(body))


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_says_what_the_script_returns(name):
    assert re.search(r"^-- Returns", scripts.load_script(name).source, re.MULTILINE)


async def test_script_runs_on_a_server_that_never_saw_it(aredis):
    source = "return ARGV[1]"
    call = scripts.Call(scripts.make_script("echo", source), [], ["hello"], bytes.decode)
    await aredis.script_flush()
    assert await scripts.run(aredis, call) == "hello"
    await aredis.script_flush()
    assert await scripts.run_many(aredis, [call, call]) == ["hello", "hello"]


async def test_scripts_are_taught_and_run_in_one_round_trip_lest_they_are_forgotten_in_between():
    calls = [
        scripts.Call(scripts.make_script(name, f"return '{name}'"), [], [], bytes.decode) for name in ("one", "two")
    ]
    # One of its own, which nobody else asks: its reads are counted.
    with EmbeddedRedis() as server:
        async with open_async(server.url) as redis, redis.client() as asking:
            connection = KeptConnection(redis)
            await connection.exchange([("PING",)])
            before = (await asking.info("stats"))["total_reads_processed"]
            assert await scripts.run_many(connection, calls) == ["one", "two"]
            after = (await asking.info("stats"))["total_reads_processed"]
            await connection.release()
    assert after - before == len(("asked", "taught and asked again", "these statistics"))


async def test_one_failing_call_does_not_spoil_its_neighbours(aredis):
    good = scripts.Call(scripts.make_script("good", "return 1"), [], [], int)
    bad = scripts.Call(scripts.make_script("bad", "return redis.error_reply('BAD it broke')"), [], [], int)
    first, second, third = await scripts.run_many(aredis, [good, bad, good])
    assert (first, third) == (1, 1)
    assert "it broke" in str(second)

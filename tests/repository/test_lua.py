"""The Lua scripts: what their headers promise, which words they share with Python, and how they are loaded."""

import re

import pytest
from rq.job import JobStatus as RqStatus

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.queue.keys import QUEUE_PREFIX, SIDE_QUEUES, JobStatus, Place, TaskField
from langgraph_rq.shared.tasks import State
from tests.documented_keys import KNOWN
from tests.repository.lua_sources import NAMES, calls_in, literals, read_lua

INCLUDED = sorted({file for name in NAMES for file in read_lua(name).uses})
SCRIPTS = [name for name in NAMES if name not in {*INCLUDED, scripts.PRELUDE}]
QUEUE = [name for name in NAMES if name.startswith("shared/queue/")]


@pytest.mark.parametrize("name", NAMES)
def test_header_names_exactly_the_slots_that_the_body_uses(name):
    slot = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
    file = read_lua(name)
    assert set(slot.findall(file.header)) == set(slot.findall(file.body))


@pytest.mark.parametrize("name", NAMES)
def test_header_lists_exactly_the_shared_functions_that_the_body_uses(name):
    file = read_lua(name)
    offered = {include: read_lua(include).defined for include in INCLUDED if include != name}
    shared = set().union(*offered.values()) - file.defined
    assert set().union(*file.uses.values()) == file.words & shared
    assert {include for include, names in file.uses.items() if not names <= offered[include]} == set()


@pytest.mark.parametrize("name", NAMES)
def test_header_lists_exactly_the_scripts_that_the_body_calls(name):
    file = read_lua(name)
    called = set(re.findall(r"(?<![\w.:])(\w+)\(", file.body)) - file.defined
    verbs = {script.rpartition("/")[2] for script in SCRIPTS} - set().union(*file.uses.values())
    assert {script.rpartition("/")[2] for script in file.calls} == called & verbs


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_says_what_the_script_returns(name):
    assert re.search(r"^-- Returns", read_lua(name).header, re.MULTILINE)


@pytest.mark.parametrize("name", INCLUDED)
def test_shared_functions_come_without_flags_and_slots_of_their_own(name):
    assert not read_lua(name).header.startswith("#!")


def test_flags_stay_the_first_line_before_what_a_script_uses():
    assert scripts.load_script("shared/queue/scripts/finish").source.startswith("#!lua flags=allow-oom\n")
    assert scripts.load_script("shared/breaker/read").command == "EVALSHA_RO"


def test_script_that_a_used_file_calls_stands_before_it():
    source = scripts.load_script("worker/guards/scripts/settle").source
    assert source.count("local function wake(KEYS, ARGV)") == 1
    assert source.index("local function wake(") < source.index("local function follow_report(")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_has_the_functions_of_its_files_that_it_needs_and_no_others(name):
    code = re.sub(r"^ *--.*", "", scripts.load_script(name).source, flags=re.MULTILINE)
    for function in re.findall(r"^local function (\w+)", "".join(files_of(name)), re.MULTILINE):
        is_there = f"\nlocal function {function}(" in code
        assert is_there == (len(re.findall(rf"\b{function}\b", code)) > is_there), function


@pytest.mark.parametrize("name", SCRIPTS)
def test_constant_stands_as_its_value_where_it_is_used(name):
    code = re.sub(r"""--.*|'[^'\n]*'|"[^"\n]*\"""", "", scripts.load_script(name).source)
    constants = set(
        re.findall(r"^local ([A-Z_]+) = (?:-?\d+|'[^'\n]*'|\"[^\"\n]*\")$", "".join(files_of(name)), re.MULTILINE)
    )
    assert not constants & set(re.findall(r"\w+", code))


def files_of(name: str) -> list[str]:
    """Return the text of what a script uses, and of what that uses."""
    uses = read_lua(name).uses
    return [text for file in uses for text in (read_lua(file).body, *files_of(file))]


def test_clock_and_fence_stand_once():
    clocks = {name for name in NAMES if "'TIME'" in read_lua(name).body or '"TIME"' in read_lua(name).body}
    assert clocks == {"shared/connections/clock"}
    fences = [name for name in NAMES if re.search(r"\bepoch\b.*==|==.*\bepoch\b|~= epoch", read_lua(name).body)]
    assert fences == [
        "shared/queue/functions/fence",
        "shared/queue/scripts/running/append_events",
    ]  # the second compares who counted, not who owns


def written(keys: tuple[str, ...], *, names: list[str]) -> dict[str, set[str]]:
    """Return field -> string values, as calls on the hashes `keys` read or write them."""
    found: dict[str, set[str]] = {}
    for name in names:
        for command, *arguments in calls_in(read_lua(name).body):
            if not arguments or not arguments[0].startswith(keys):
                continue
            if command == "'HSET'":
                for field, value in zip(arguments[1::2], arguments[2::2], strict=True):
                    for text in literals([field]):
                        found.setdefault(text, set()).update(literals([value]))
            elif command in {"'HGET'", "'HMGET'", "'HDEL'", "'HINCRBY'", "'HEXISTS'", "'HSTRLEN'"}:
                last = 2 if command == "'HINCRBY'" else len(arguments)
                for text in literals(arguments[1:last]):
                    found.setdefault(text, set())
    return found


TASK_HASH = ("task_key", "'agent:task:'")
JOB_HASH = ("job_key", "'rq:job:'")


def test_scripts_and_python_name_the_same_fields_of_a_task():
    assert set(written(TASK_HASH, names=NAMES)) == set(TaskField)


def test_scripts_write_states_and_places_that_python_knows():
    fields = written(TASK_HASH, names=NAMES)
    assert fields["state"] <= set(State)
    assert fields["place"] == set(Place)


def test_scripts_write_states_of_jobs_that_rq_and_python_know():
    by_argument = {JobStatus.DEFERRED, JobStatus.FINISHED, JobStatus.FAILED, JobStatus.CANCELED}
    assert written(JOB_HASH, names=NAMES)["status"] | by_argument == set(JobStatus)
    assert set(JobStatus) <= {status.value for status in RqStatus}


def test_scripts_write_events_of_types_that_python_knows():
    added = [arguments for name in QUEUE for arguments in calls_in(read_lua(name).body) if arguments[0] == "'XADD'"]
    types = [literals([call[call.index("'type'") + 1]]) for call in added if "'data'" in call]
    assert {one for some in types for one in some} == {EventType.STATE, EventType.END}


@pytest.mark.parametrize("name", QUEUE)
def test_scripts_name_only_keys_that_are_documented(name):
    channels = {"agent:commands:", SIDE_QUEUES}
    keys = set(re.findall(r"'((?:agent|rq):[^']*)'", read_lua(name).body)) - channels
    assert {key for key in keys if not any(known.startswith(key.rstrip("*")) for known in KNOWN)} == set()


def test_scripts_and_python_name_the_lists_of_queues_alike():
    assert f"local QUEUE_KEY = '{QUEUE_PREFIX}'" in read_lua("shared/queue/functions/turns").body


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
    # One of its own, which no other caller uses: its reads are counted.
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

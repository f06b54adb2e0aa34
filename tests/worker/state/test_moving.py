"""`langgraph-producer threads` moves threads between the ways to keep state."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.postgres.connections import open_postgres
from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from tests.installation import ROOT, clean_environment
from tests.worker.state.scenarios import Deltas, Seen, chain, fork_and_both_branches, step, talk, thread

SECRET = "a-secret-of-more-than-32-characters"


@pytest.fixture
def settings(request, tmp_path, monkeypatch, postgres_url):
    redis_url = request.getfixturevalue("stack_url" if "redis-stack" in request.node.name else "redis_url")
    (tmp_path / "graph.py").write_text("from tests.worker.state.scenarios import Deltas, chain, talk\n"
                                       "graph = chain(talk, of=Deltas)\n")  # fmt: skip
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"g": "./graph.py:graph"}}))
    monkeypatch.chdir(tmp_path)
    return {"REDIS_URL": redis_url, "LGRQ_STATE_URL": postgres_url}


@pytest.fixture
def threads(settings):
    """Run one of the commands on a kind of state."""

    def run(state, *arguments, code=0, **more):
        environment = {**settings, "LGRQ_STATE": state, **more}
        done = CliRunner().invoke(main, ["threads", *arguments], env=environment)
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return run


@pytest.fixture
def on(settings):
    """Run something with the saver of a kind of state, in a loop of its own."""

    def run(state, work, secret=None):
        serializer = StateSerializer(StateKeys.parse(secret))

        async def opened():
            if state != "postgres":
                kind = ThreadSaver if state == "redis" else Checkpointer
                async with open_async(settings["REDIS_URL"]) as redis:
                    saver = kind(redis, serializer=serializer)
                    if state == "redis-stack":
                        await saver.asetup()
                    return await work(saver)
            async with open_postgres(settings["LGRQ_STATE_URL"]) as postgres:
                return await work(PostgresSaver(postgres, serializer=serializer))

        return asyncio.run(opened())

    return run


async def write(saver):
    """Two threads: one with a fork, one with delta channels."""
    await fork_and_both_branches(saver)
    graph = chain(talk, of=Deltas).compile(checkpointer=saver)
    for number in range(6):
        await graph.ainvoke({"messages": [f"question {number}"], "count": 0}, thread("deltas"))


async def read(saver):
    """Return both histories, with lists for tuples: metadata are JSON in Postgres."""
    steps, deltas = chain(*map(step, ("one", "two", "three"))), chain(talk, of=Deltas)
    histories = [(steps.compile(checkpointer=saver), "t"), (deltas.compile(checkpointer=saver), "deltas")]
    found = [await Seen().history(graph, thread(name)) for graph, name in histories]
    return json.loads(json.dumps(found))


async def go_on(saver):
    graph = chain(talk, of=Deltas).compile(checkpointer=saver)
    return (await graph.ainvoke({"messages": ["more"], "count": 0}, thread("deltas")))["messages"]


@pytest.mark.parametrize("secret", [None, SECRET], ids=["plain", "encrypted"])
@pytest.mark.parametrize(("source", "target"), [("redis", "postgres"), ("postgres", "redis"), ("redis-stack", "redis")])
def test_threads_are_the_same_where_they_were_moved_to_and_go_on_there(threads, on, tmp_path, source, target, secret):
    key = {"LGRQ_STATE_KEY": secret} if secret else {}
    on(source, write, secret)
    done = threads(source, "export", **key)
    (tmp_path / "threads.jsonl").write_bytes(done.stdout_bytes)
    assert done.stderr.endswith("2 threads\n")
    for written in ("2 threads; 0 were", "0 threads; 2 were"):
        assert written in threads(target, "import", "threads.jsonl", **key).stderr
    assert on(target, read, secret) == on(source, read, secret)
    assert on(target, go_on, secret) == on(source, go_on, secret)
    if secret:
        assert b"question" not in done.stdout_bytes


def test_threads_are_moved_by_the_lines_of_the_documentation(settings, on):
    typed = re.findall(r"^\$ (LGRQ_STATE=.* threads .*)$", (ROOT / "docs/state.md").read_text(), re.MULTILINE)
    on("redis", write)
    environment = {**clean_environment(settings), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(typed)], env=environment, capture_output=True, text=True, check=False
    )
    assert (len(typed), done.returncode) == (2, 0), done.stderr
    assert on("postgres", read) == on("redis", read)


def test_thread_that_has_other_checkpoints_is_refused(threads, on, tmp_path):
    on("redis", write)
    (tmp_path / "threads.jsonl").write_bytes(threads("redis", "export", "deltas").stdout_bytes)
    on("postgres", go_on)
    refused = threads("postgres", "import", "threads.jsonl", code=2).stderr
    assert "error: thread 'deltas': expected none, or what was imported before, got: other checkpoints" in refused


def test_thread_that_is_not_there_is_an_error_and_no_empty_file(threads, on):
    on("redis", write)
    refused = threads("redis", "export", "t", "no-such-thread", code=2)
    assert "error: thread 'no-such-thread': expected one with checkpoints, got: one without" in refused.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("no JSON", "line 1: expected JSON, got: "),
        ('{"thread": "t"}', "line 1: expected the fields content, id, kind, namespace, parent, thread, got: thread"),
        (
            '{"thread": "t", "namespace": "", "id": "1", "parent": null, "kind": "msgpack", "content": "AA=="}',
            "thread 't', checkpoint '1': ",
        ),
    ],
)
def test_line_that_was_not_exported_is_one_error_and_writes_nothing(threads, on, tmp_path, line, says):
    (tmp_path / "threads.jsonl").write_text(line + "\n")
    said = threads("redis", "import", "threads.jsonl", code=2).stderr
    assert said.splitlines()[-1].startswith(f"error: {says}")

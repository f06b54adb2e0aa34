"""The flags of `submit` make the fields of a task; `resume` and `continue` can wait for the task that they submit."""

import asyncio
import json

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from tests.fleet import Number, worker

FAILED: set[int] = set()


async def ask(_state):
    return {"n": interrupt("how many?")}


async def fail_once(state):
    if state["n"] not in FAILED:
        FAILED.add(state["n"])
        raise ValueError("not this time")
    return {"n": 10 * state["n"]}


async def pass_on(state):
    return state


def chain(*nodes):
    builder = StateGraph(Number)
    for name, node in nodes:
        builder.add_node(name, node)
    names = [name for name, _ in nodes]
    for one, other in zip((START, *names), names, strict=False):
        builder.add_edge(one, other)
    return builder.compile()


def submitted(redis_client, done) -> dict:
    assert done.exit_code == 0, done.output
    return json.loads(redis_client.hget(f"rq:job:{done.stdout.strip()}", "task"))[2][0]


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ('--context {"a":1}', {"context": {"a": 1}}),
        (
            '--config {"tags":["t"],"recursion_limit":7}',
            {"config": {"configurable": {}, "tags": ["t"], "recursion_limit": 7, "metadata": {}}},
        ),
        ("--interrupt-before a --interrupt-before b", {"interrupt_before": ["a", "b"]}),
        ("--interrupt-after *", {"interrupt_after": "*"}),
        ("--thread t --checkpoint c-1", {"thread_id": "t", "checkpoint_id": "c-1"}),
        ("--durability exit", {"durability": "exit"}),
        (
            "--stream updates --stream debug --stream-subgraphs",
            {"stream": ["debug", "updates"], "stream_subgraphs": True},
        ),
        ('--metadata {"a":1}', {"metadata": {"a": 1}}),
        ("--max-attempts 3", {"max_attempts": 3}),
        ("--delay 2.5", {"delay_s": 2.5}),
    ],
)
def test_flag_makes_a_field(run, redis_client, flags, fields):
    task = submitted(redis_client, run("submit", "--input", '{"n": 1}', *flags.split()))
    assert {name: task.get(name) for name in fields} == fields


def test_null_and_commands_go_on_with_a_thread(run, redis_client):
    task = submitted(redis_client, run("submit", "--input", "null", "--thread", "t"))
    assert (task["input"], task["thread_id"]) == (None, "t")
    task = submitted(redis_client, run("submit", "--command", '{"resume": "yes"}', "--thread", "t"))
    assert task["command"] == {"resume": "yes"}


def test_time_of_the_start_is_kept(run, redis_client):
    done = run("submit", "hi", "--run-at", "2000-01-01T01:00:00+01:00")
    assert submitted(redis_client, done)["run_at"] == "2000-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--context", "{a"], "--context: expected JSON"),
        (["--context", "[1]"], "context: expected a JSON object, got: a list of 1"),
        (["--run-at", "soon"], "run_at: expected an instant with its offset"),
        (["--max-attempts", "99"], "max_attempts: expected at most 10"),
        (["--command", '{"goto": "n"}'], "input: expected null beside command"),
        (["--stream", "tokens"], "Invalid value for '--stream'"),
    ],
)
def test_wrong_flag_is_one_clear_error(run, flags, words):
    done = run("submit", "hi", *flags)
    assert (done.exit_code, words in done.output, "Traceback" in done.output) == (2, True, False)


async def test_resume_and_continue_wait_for_the_task_that_they_submit(redis_url, client, run):
    graphs = {"asks": chain(("ask", ask)), "fails": chain(("fail", fail_once)), "stops": chain(("a", pass_on))}
    async with worker(redis_url, graphs, checkpoints=True):

        async def done(*arguments: str):
            return await asyncio.to_thread(run, *arguments)

        asked = client.submit({"n": 1}, graph="asks").task_id
        await asyncio.to_thread(client.wait, asked, 20)
        resumed = await done("resume", asked, "7", "--wait", "--json")
        assert (resumed.exit_code, json.loads(resumed.stdout)["result"]) == (0, {"n": 7})

        failed = client.submit({"n": 1}, graph="fails").task_id
        await asyncio.to_thread(client.wait, failed, 20)
        continued = await done("continue", failed, "--wait", "--json")
        assert (continued.exit_code, json.loads(continued.stdout)["result"]) == (0, {"n": 10})
        assert json.loads(continued.stdout)["metadata"]["continues"] == failed

        stopped = await done(
            "submit", "--graph", "stops", "--input", '{"n": 2}', "--interrupt-before", "a", "--wait", "--json"
        )
        assert json.loads(stopped.stdout)["metadata"]["next"] == ["a"]
        went_on = await done("resume", json.loads(stopped.stdout)["task_id"], "--wait")
        assert (went_on.exit_code, "success" in went_on.stdout) == (0, True)
    refused = run("continue", asked)
    assert (refused.exit_code, "is interrupted" in refused.stderr) == (2, True)

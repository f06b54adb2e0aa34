"""The commands that follow, stop and answer tasks."""

import asyncio
import json

import pytest
from langgraph.types import interrupt

from langgraph_rq.producer.cli.views import reasons
from langgraph_rq.shared.queue.verbs import QueueTimes
from tests.fleet import Number, one_node_graph, worker
from tests.waiting import until


async def ask(_state):
    return {"n": interrupt("how many?")}


async def test_interrupted_task_is_resumed_and_followed(redis_url, client, run):
    async with worker(redis_url, {"g": one_node_graph(ask, Number)}, checkpoints=True):
        asked = client.submit({"n": 1}, graph="g", stream=["updates"]).task_id
        result = await asyncio.to_thread(client.wait, asked, 20)
        (question,) = result.result["__interrupt__"]
        assert f"answer it: langgraph-producer resume {asked} VALUE\n" in run("wait", asked).stdout
        resumed = run("resume", asked, "--answer", f"{question['id']}=7", "--json")
        receipt = json.loads(resumed.stdout)
        await asyncio.to_thread(client.wait, receipt["task_id"], 20)
    assert run("resume", asked, "7").stdout.strip() == receipt["task_id"]
    assert run("resume", asked, "8").exit_code == 2
    events = [json.loads(line) for line in run("events", receipt["task_id"], "--json").stdout.splitlines()]
    assert [event["type"] for event in events] == ["state", "node", "updates", "node", "end"]
    assert events[2]["data"] == {"attempt": 1, "data": {"node": {"n": 7}}}
    rest = run("events", receipt["task_id"], "--after", events[3]["id"])
    assert rest.stdout.split()[1:] == ["end", '{"state":"success"}']


def test_task_is_cancelled(client, run):
    task_id = client.submit({}).task_id
    assert run("cancel", task_id).stdout.strip() == "cancelled"
    assert json.loads(run("cancel", task_id, "--json").stdout) == {"task_id": task_id, "state": "cancelled"}


def test_several_tasks_are_cancelled_and_continued_by_one_command(client, run):
    ids = [client.submit({}).task_id for _ in range(3)]
    assert run("cancel", *ids).stdout.split() == ["cancelled"] * 3
    done = run("continue", *ids)
    assert len(done.stdout.split()) == 3
    assert done.stderr.count("warning: ") == 1  # no worker is there
    assert "; tasks wait for one\n" in done.stderr
    assert run("continue", *ids).stdout == done.stdout


@pytest.mark.parametrize("arguments", [("cancel", "nobody"), ("resume", "nobody", "1"), ("events", "nobody")])
def test_unknown_task_is_exit_code_4(run, arguments):
    assert run(*arguments).exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("events", "t", "--after", "yesterday"), "--after: expected the id of an event"),
        (("resume", "t", "--answer", "yes"), "--answer: expected ID=VALUE"),
        (("new-key", "Acme Corp"), "tenant: expected lower-case letters"),
        (("serve",), "LGRQ_GATEWAY_KEYS_FILE: expected a file of API keys"),
        (("serve", "--without-keys", "--host", "0.0.0.0"), "LGRQ_GATEWAY_HOST: expected"),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_line(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_new_key_shows_the_key_and_the_line_to_keep(run):
    made = json.loads(run("new-key", "acme", "--json").stdout)
    assert made["line"].startswith("acme:")
    assert made["key"] not in made["line"]


async def test_task_that_no_live_worker_can_run_is_queued_with_a_warning(redis_url, run):
    alone = run("submit", "--id", "t1", "--graph", "g", "--input", "{}")
    assert (alone.exit_code, alone.stdout.strip()) == (0, "t1")
    assert alone.stderr == "warning: no worker is alive; tasks wait for one\n"
    assert json.loads(run("status", "t1", "--json").stdout)["reason"] == "no worker is alive"
    graph = one_node_graph(ask, Number)
    async with worker(redis_url, {"g": graph}, times=QueueTimes(lease_ms=2_000)) as one:
        await until(lambda: one.is_held)
    async with worker(redis_url, {"h": graph}) as one:
        await until(lambda: one.is_held)
        run("submit", "--id", "t2", "--graph", "g", "--input", "{}")
        reason = "no live worker of the queue agent_tasks serves the graph 'g'"
        await until(lambda: json.loads(run("status", "t2", "--json").stdout)["reason"] == reason)
        assert run("submit", "--graph", "g", "--input", "{}").stderr == f"warning: {reason}; tasks wait for one\n"
        assert run("submit", "--graph", "h", "--input", "{}").stderr == ""


async def test_queue_that_no_live_worker_reads_is_said(redis_url, run, monkeypatch):
    async with worker(redis_url, {"g": one_node_graph(ask, Number)}) as one:
        await until(lambda: one.is_held)
        monkeypatch.setenv("LGRQ_QUEUE", "other")
        waiting = run("submit", "--graph", "g", "--input", "{}")
    assert waiting.stderr == "warning: no live worker reads the queue other; tasks wait for one\n"


async def test_input_is_judged_by_what_the_graph_takes_and_a_files_line_is_named(redis_url, run, tmp_path):
    file = tmp_path / "tasks.jsonl"
    async with worker(redis_url, {"g": one_node_graph(ask, Number)}) as one:
        await until(lambda: one.is_held)
        submit = ("submit", "--graph", "g", "--input")
        warned, refused = run(*submit, '{"n": 1, "m": 2}'), run(*submit, "[1]")
        file.write_text('{"graph": "g", "input": {}}\n\n{"graph": "g", "input": [1]}\n')
        in_file = run("submit", "--file", str(file))
        file.write_text('{"graph": "g", "input": {}}\n\n{"graph": "g", "input": {"nn": 1}}\n')
        warned_in_file = run("submit", "--file", str(file), "--json")
    said = "unknown field (did you mean n?); the graph ignores it"
    assert (warned.exit_code, warned.stderr) == (0, "warning: input.m: unknown field, known: n; the graph ignores it\n")
    assert (refused.exit_code, refused.stderr) == (2, "error: input: expected a JSON object, got: a list of 1\n")
    assert in_file.stderr == "error: line 3: input: expected a JSON object, got: a list of 1\n"
    assert warned_in_file.stderr == f"warning: line 3: input.nn: {said}\n"
    receipts = [json.loads(line) for line in warned_in_file.stdout.splitlines()]
    assert [receipt["warnings"] for receipt in receipts] == [[], [f"input.nn: {said}"]]


@pytest.mark.parametrize("wait", [(), ("--wait",)], ids=["", "wait"])
def test_ids_of_what_was_queued_of_a_file_are_written_before_the_refusal_of_a_line(client, run, tmp_path, wait):
    client.submit({"n": 1}, task_id="taken")
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(f'{{"input": {{}}, "task_id": "{id_}"}}\n' for id_ in ("first", "taken", "last")))
    done = run("submit", "--file", str(file), *wait)
    assert (done.exit_code, done.stdout.split()) == (2, ["first", "last"])
    assert "error: task_id taken: another task with this id is pending" in done.stderr


def test_wait_shows_what_a_task_waits_for(client, run, monkeypatch):
    monkeypatch.setattr(reasons, "_LOOK_S", 0.05)
    client.submit({}, graph="g", task_id="t1")
    waited = run("wait", "t1", "--timeout", "1")
    assert waited.exit_code == 5
    assert waited.stderr.splitlines()[0] == "task t1: no worker is alive"
    submitted = run("submit", "--id", "t2", "--graph", "g", "--input", "{}", "--wait", "--timeout", "1")
    assert submitted.stderr.splitlines()[0] == "warning: no worker is alive; tasks wait for one"
    assert "task t2: no worker is alive" not in submitted.stderr, "it was said before"


async def test_reason_is_shown_each_time_that_it_changes(redis_url, client, monkeypatch, capsys):
    monkeypatch.setattr(reasons, "_LOOK_S", 0.01)
    graph, brief = one_node_graph(ask, Number), QueueTimes(lease_ms=1_000)
    client.submit({}, graph="g", task_id="t1")
    left, written = {"t1": None, "forgotten": None}, []

    def lines() -> list[str]:
        written.extend(capsys.readouterr().err.splitlines())
        return written

    unserved = "task t1: no live worker of the queue agent_tasks serves the graph 'g'"
    with reasons.shown_reasons(client, left, ["no worker is alive"]):
        async with worker(redis_url, {"h": graph}, times=brief):
            await until(lambda: lines() == [unserved])
        await until(lambda: lines() == [unserved, "task t1: no worker is alive"])
        async with worker(redis_url, {"h": graph}, times=brief):
            await until(lambda: lines()[2:] == [unserved])
        left.clear()
    assert len(lines()) == 3

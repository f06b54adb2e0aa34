"""`producer audit`: who did what, whether the log is whole, and a copy for those who keep it longer."""

import json

import pytest
from click.testing import CliRunner

from langgraph_rq import Client, TaskConflictError
from langgraph_rq.producer.cli.main import main
from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.shared.telemetry.audit import STREAM, actor
from tests.gateways import gateway

KEY = "a key of the tests, as long as it must be"


@pytest.fixture
def audited(redis_url, monkeypatch):
    """A client that was used by two people."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("LGRQ_AUDIT_KEY", KEY)
    with Client(redis_url) as client:
        token = actor.set("ann's key")
        client.submit({"query": "the canary"}, task_id="t1")
        actor.reset(token)
        client.cancel("t1")
        client.result("t1")
        yield client


def run(*arguments: str):
    return CliRunner().invoke(main, ["audit", *arguments], catch_exceptions=False)


def entries(*arguments: str) -> list[dict]:
    return [json.loads(line) for line in run("--json", *arguments).stdout.splitlines()]


def test_log_says_who_did_what_and_not_what_was_asked(audited):
    found = entries()
    assert [(entry["action"], entry["task"]) for entry in found] == [
        ("submitted", "t1"),
        ("cancelled", "t1"),
        ("read", "t1"),
    ]
    assert found[0]["actor"] == "ann's key"
    assert found[0]["details"].keys() == {"graph", "input_sha256"}
    assert found[1]["details"] == {"state": "cancelled"}
    assert "canary" not in run().stdout
    assert "ann's key" in run().stdout


def test_entries_of_one_task_or_the_last_ones_can_be_chosen(audited):
    audited.submit({"query": "x"}, task_id="t2")
    assert [entry["task"] for entry in entries("--task", "t2")] == ["t2"]
    assert [entry["action"] for entry in entries("--last", "2")] == ["read", "submitted"]


def test_last_entries_are_read_without_the_others(audited, redis_client):
    redis_client.config_resetstat()
    assert [entry["action"] for entry in entries("--last", "2")] == ["cancelled", "read"]
    assert "cmdstat_xrange" not in redis_client.info("commandstats")


def test_submission_that_was_refused_is_told_from_the_one_that_was_taken(audited):
    with pytest.raises(TaskConflictError):
        audited.submit({"query": "another"}, task_id="t1")
    sent, refused = entries("--last", "2")
    assert (sent["action"], refused["action"], refused["task"]) == ("submitted", "refused", "t1")
    assert refused["details"] == {"reason": "conflict"}


def test_refusals_of_a_batch_are_told_from_what_was_taken(audited):
    with pytest.raises(TaskConflictError):
        audited.submit_many([{"input": {"query": "another"}, "task_id": one} for one in ("t1", "t2", "t1")])
    actions = [(entry["action"], entry["task"]) for entry in entries("--last", "5")]
    assert actions == [*(("submitted", one) for one in ("t1", "t2", "t1")), ("refused", "t1"), ("refused", "t1")]


def test_whole_log_is_verified_with_exit_code_0(audited):
    done = run("--verify")
    assert done.exit_code == 0
    assert done.stdout.startswith("3 entries of 1 writers: every chain is whole\nno worker has anchored the log")


def test_removed_entry_is_verified_with_exit_code_1(audited, redis_client):
    redis_client.xdel(STREAM, redis_client.xrange(STREAM)[1][0])
    done = run("--verify")
    assert done.exit_code == 1
    assert "entries were removed or moved" in done.stdout
    assert json.loads(run("--verify", "--json").stdout)["faults"][0]["seq"] == 3


def test_verifying_needs_the_key(audited, monkeypatch):
    monkeypatch.delenv("LGRQ_AUDIT_KEY")
    done = run("--verify")
    assert done.exit_code == 2
    assert "got: nothing; set it" in done.stderr


def test_wrong_key_is_one_line_and_not_one_of_each_entry(audited, monkeypatch):
    monkeypatch.setenv("LGRQ_AUDIT_KEY", "another key, which is as long as it must be")
    done = run("--verify")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:2] == [
        "LGRQ_AUDIT_KEY: probably another key than the one that signed the log: none of its 3 entries verifies",
        "3 entries of 1 writers: 3 faults",
    ]
    assert json.loads(run("--verify", "--json").stdout)["probably_wrong_keys"] == ["LGRQ_AUDIT_KEY"]


def test_one_altered_entry_of_many_is_no_wrong_key(audited, redis_client):
    entry_id, entry = redis_client.xrange(STREAM)[2]
    redis_client.xdel(STREAM, entry_id)
    redis_client.xadd(STREAM, {**entry, "task": "t9"})
    done = run("--verify")
    assert "entry 3: altered, or signed with another key" in done.stdout
    assert "probably another key" not in done.stdout


@pytest.mark.parametrize("variable", ["LGRQ_AUDIT_KEY", "LGRQ_AUDIT_WORKER_KEY"])
def test_key_that_can_be_guessed_is_refused(audited, monkeypatch, variable):
    monkeypatch.setenv(variable, "short")
    done = run("--verify")
    assert done.exit_code == 2
    assert f"error: {variable}: expected 32 characters or more, got: 5; `openssl rand -hex 32` writes" in done.stderr


def test_all_entries_are_exported_as_they_stand(audited, tmp_path, monkeypatch):
    monkeypatch.setattr("langgraph_rq.producer.cli.audit._PAGE", 2)
    assert run("--export", str(tmp_path / "audit.jsonl")).exit_code == 0
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == ["1", "2", "3"]
    assert all(len(json.loads(line)["digest"]) == 64 for line in lines)


def test_without_a_key_there_is_no_log(redis_url, redis_client):
    with Client(redis_url) as client:
        client.submit({"query": "x"})
    assert not redis_client.exists(STREAM)


@pytest.mark.parametrize("options", [(), ("--json",), ("--task", "t1"), ("--export", "-")])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        (
            "",
            "the audit log is empty, and LGRQ_AUDIT_KEY is not set here: only programs that have the key keep it",
        ),
        (KEY, "the audit log is empty: no program that has LGRQ_AUDIT_KEY has done anything on this Redis in 90 days"),
    ],
    ids=["no key", "a key"],
)
def test_empty_log_says_why_and_what_to_do(redis_url, monkeypatch, options, key, why):
    monkeypatch.setenv("REDIS_URL", redis_url)
    if key:
        monkeypatch.setenv("LGRQ_AUDIT_KEY", key)
    done = run(*options)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith(why), done.stderr


def test_empty_log_is_not_verified_as_whole(redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("LGRQ_AUDIT_KEY", KEY)
    done = run("--verify")
    assert done.exit_code == 0
    assert done.stdout.startswith("the audit log is empty: ")
    assert "whole" not in done.stdout


def test_log_without_entries_of_a_task_says_so(audited):
    done = run("--task", "t2")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("no entry of the audit log is about the task t2")


async def test_gateway_writes_down_whose_key_it_was(redis_url, monkeypatch):
    monkeypatch.setenv("LGRQ_AUDIT_KEY", KEY)
    monkeypatch.setenv("REDIS_URL", redis_url)
    key, line = make_key("acme")
    async with gateway(redis_url, keys=line) as http:
        sent = await http.post("/tasks", json={"input": {}, "task_id": "t1"}, headers={"X-API-Key": key})
        assert sent.status_code == 202
        await http.delete("/tasks/t1", headers={"X-API-Key": key})
        await http.get("/tasks/t1/result", headers={"X-API-Key": key})
    told = [(entry["action"], entry["actor"], entry["task"]) for entry in entries()]
    assert told == [(action, "API key of acme", "acme--t1") for action in ("submitted", "cancelled", "read")]

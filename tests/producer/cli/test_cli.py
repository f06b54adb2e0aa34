"""`langgraph-producer`: what it writes where, and with which code it ends."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from langgraph_rq.producer.cli.main import main
from tests.installation import clean_environment

DOWN = "redis://ann:hunter2@127.0.0.1:1/0"
UNKNOWN_ID = "7541897b-8dcb-4539-ad83-7db3f43609a3"
FIVE_MEGABYTES = json.dumps({"query": "x" * 5_000_000})


@pytest.fixture
def producer(installation, monkeypatch):
    """Run a command in this process, against the shared installation."""
    monkeypatch.setenv("REDIS_URL", installation.redis_url)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, arguments, input=stdin)

    return run


def tasks_in_redis(url: str) -> int:
    with Redis.from_url(url) as redis:
        return len(list(redis.scan_iter("agent:task:*", count=1000)))


def test_answer_comes_first_and_how_it_was_made_after_it(producer):
    done = producer("submit", "What is a lease?", "--wait", "--timeout", "60")
    assert done.exit_code == 0, done.output
    answer, _, figures = done.stdout.partition("\n\n")
    assert "lease" in answer
    assert "success" in figures
    assert "gpt-4o" in figures
    assert done.stderr == ""


def test_submit_without_wait_writes_the_id_and_nothing_else(producer):
    done = producer("submit", "--graph", "nap", "--input", '{"seconds": 0}', "--id", "cli-nap")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "cli-nap\n", "")


def test_submit_as_json_is_the_receipt(producer):
    task = ("submit", "--graph", "nap", "--input", '{"seconds": 0}', "--id", "cli-twice", "--json")
    first, again = producer(*task), producer(*task)
    assert json.loads(first.stdout) == {
        "task_id": "cli-twice",
        "state": "pending",
        "created": True,
        "reason": None,
        "warnings": [],
    }
    assert json.loads(again.stdout)["created"] is False


def test_result_as_json_is_the_document_that_stands_in_redis(producer, installation):
    task_id = producer("submit", "--graph", "nap", "--input", '{"seconds": 0}').stdout.strip()
    waited, result = producer("wait", task_id, "--json"), producer("result", task_id, "--json")
    with Redis.from_url(installation.redis_url) as redis:
        stored = json.loads(redis.get(f"agent:result:{task_id}"))
    assert json.loads(waited.stdout)["result"] == {"seconds": 0}
    assert json.loads(waited.stdout) == json.loads(result.stdout)
    assert json.loads(result.stdout)["status"] == stored["status"]


def test_status_shows_where_a_task_is(producer):
    task_id = producer("submit", "--graph", "nap", "--input", '{"seconds": 0}').stdout.strip()
    producer("wait", task_id)
    shown, as_json = producer("status", task_id), producer("status", task_id, "--json")
    assert "success" in shown.stdout
    assert json.loads(as_json.stdout)["state"] == "success"


def test_file_of_tasks_gives_a_row_for_each(producer, tmp_path):
    file = tmp_path / "tasks.jsonl"
    lines = [{"graph": "nap", "input": {"seconds": 0}, "task_id": f"row-{n}"} for n in range(3)]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    done = producer("submit", "--file", str(file), "--wait")
    assert done.exit_code == 0
    assert sorted(line.split()[0] for line in done.stdout.splitlines()[1:]) == ["row-0", "row-1", "row-2"]


def test_file_may_be_stdin_and_the_results_json_lines(producer):
    lines = [json.dumps({"graph": "nap", "input": {"seconds": 0}, "task_id": f"line-{n}"}) for n in range(3)]
    done = producer("submit", "--file", "-", "--wait", "--json", stdin="\n".join(lines))
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {result["task_id"] for result in results} == {"line-0", "line-1", "line-2"}


def test_task_that_fails_ends_with_1_and_says_why(producer):
    done = producer("submit", "--graph", "exit", "--input", '{"code": 3}', "--wait")
    assert done.exit_code == 1
    assert "graph_error: SystemExit: 3" in done.stdout


def test_one_failure_among_many_ends_with_1(producer):
    lines = ['{"graph": "exit", "input": {}}', '{"graph": "nap", "input": {"seconds": 0}}']
    assert producer("submit", "--file", "-", "--wait", stdin="\n".join(lines)).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("--input", "{query"), None, "--input: expected JSON, got: "),
        (("--input", "[1]"), None, "input: expected a JSON object, got: "),
        (("--file", "-"), "not json", "line 1: task: expected JSON, got: "),
        (("--file", "-"), '{"input": {}}\n[]', "line 2: task: expected a JSON object, got: "),
        (("--file", "-"), '{"input": {}, "querry": "?"}', "line 1: querry: unknown field"),
        (("--file", "-"), "\n", "--file: expected tasks as JSON lines, got: an empty file"),
        (("--graph", "assistent", "hello"), None, "graph: no live worker serves 'assistent', known: assistant, "),
        (("--file", "-"), f'{{"input": {FIVE_MEGABYTES}}}', "line 1: input: expected at most 4,000,000 "),
        (("--id", "order 7", "hello"), None, "task_id: expected letters, digits, _ and single dashes, at most 128"),
        (("--deadline", "0", "hello"), None, "deadline_s: expected greater than 0"),
        (("--deadline", "nan", "hello"), None, "deadline_s: expected "),
    ],
    ids=["json", "list", "line", "array", "field", "empty", "graph", "5 MB", "id", "deadline", "nan"],
)
def test_bad_input_is_one_clear_line_and_nothing_is_queued(producer, installation, arguments, stdin, says):
    before = tasks_in_redis(installation.redis_url)
    done = producer("submit", *arguments, stdin=stdin)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 400
    assert says in done.stderr
    assert tasks_in_redis(installation.redis_url) == before


@pytest.mark.parametrize("arguments", [(), ("hello", "--input", "{}"), ("--file", "-", "hello"), ("--file", "nowhere")])
def test_wrong_usage_ends_with_2(producer, arguments):
    done = producer("submit", *arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_unknown_setting_ends_with_2(producer, monkeypatch):
    monkeypatch.setenv("LGRQ_QUEU", "mine")
    done = producer("status", "t")
    assert (done.exit_code, done.stderr) == (2, "error: LGRQ_QUEU: unknown setting (did you mean LGRQ_QUEUE?)\n")


def test_other_task_under_a_known_id_ends_with_2(producer):
    producer("submit", "--graph", "nap", "--input", '{"seconds": 0}', "--id", "cli-taken")
    done = producer("submit", "--graph", "nap", "--input", '{"seconds": 1}', "--id", "cli-taken")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: task_id cli-taken: another task with this id is ")


@pytest.mark.parametrize("command", ["status", "result", "wait"])
def test_unknown_task_ends_with_4(producer, command):
    done = producer(command, UNKNOWN_ID)
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr.startswith(f"error: no task '{UNKNOWN_ID}'")


def test_task_that_has_not_ended_ends_with_5(producer):
    task_id = producer("submit", "--graph", "nap", "--input", '{"seconds": 60}', "--deadline", "3").stdout.strip()
    result, waited = producer("result", task_id), producer("wait", task_id, "--timeout", "0.2")
    assert (result.exit_code, waited.exit_code) == (5, 5)
    assert "`wait` waits for it" in result.stderr
    assert "has not ended in time" in waited.stderr


def test_help_names_examples_and_exit_codes(producer):
    shown = producer("--help").stdout
    assert 'langgraph-producer submit "What is a lease?" --wait' in shown
    assert all(f"\n    {code}  " in shown for code in range(6))


def test_redis_down_is_one_line_with_the_masked_url_and_3():
    """In a process of its own: the exit code is the system's."""
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_rq.producer", "submit", "hello"],
        env=clean_environment({"REDIS_URL": DOWN}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: cannot reach Redis at redis://***@127.0.0.1:1/0: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["export"], ["export", "th"], ["import", "-"]], ids=" ".join)
def test_moving_threads_says_at_once_that_redis_is_away(producer, monkeypatch, arguments):
    monkeypatch.setenv("LGRQ_CHECKPOINT_REDIS_URL", DOWN)
    moved = producer("threads", *arguments, stdin="{}\n")
    assert (moved.exit_code, moved.stdout) == (3, "")
    assert moved.stderr.startswith("error: cannot reach Redis at redis://***@127.0.0.1:1/0")


def commands(group: click.Group, *names: str) -> Iterator[list[str]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        elif name not in {"redis", "model"}:  # of `dev`, whose help is another program's
            yield [*names, name]


@pytest.mark.parametrize("arguments", [*commands(main)], ids=" ".join)
def test_help_of_each_command_ends_with_its_exit_codes(producer, arguments):
    *_, end = producer(*arguments, "--help").stdout.partition("Exit codes")
    assert re.findall(r"^ +(\d)  \w", end, re.MULTILINE)[0] == "0"

"""`tasks`: which tasks there are, the newest first."""

import json

import pytest


@pytest.fixture
def listed(run):
    """Return the ids that `tasks` lists."""

    def listed(*options):
        done = run("tasks", *options, "--json")
        assert done.exit_code == 0, done.stderr
        return [json.loads(line)["task_id"] for line in done.stdout.splitlines()]

    return listed


def test_tasks_are_listed_the_newest_first_over_all_pages(client, listed):
    ids = [receipt.task_id for receipt in client.submit_many({"task_id": f"t-{n}", "input": {}} for n in range(150))]
    assert listed("--limit", "1000") == ids[::-1]
    assert listed("--limit", "101") == ids[:-102:-1]
    assert listed() == ids[:-21:-1]


def test_tasks_are_listed_by_state_user_and_time(client, listed):
    of_ann, of_bob = (client.submit({}, user_id=name).task_id for name in ("ann", "bob"))
    of_none = client.submit({}).task_id
    client.cancel(of_bob)
    submitted = client.status(of_bob).submitted_at.isoformat()
    assert listed("--state", "cancelled") == [of_bob]
    assert listed("--user", "ann") == [of_ann]
    assert listed("--user", "") == [of_none]
    assert of_bob in listed("--since", submitted, "--until", submitted)
    assert listed("--since", "2999-01-01T00:00:00Z") == listed("--graph", "other") == []


def test_tasks_are_shown_a_row_each(client, run):
    task_id = client.submit({}, user_id="ann").task_id
    title, row = run("tasks").stdout.splitlines()
    assert title.split()[:4] == ["task", "state", "graph", "user"]
    assert row.split()[:4] == [task_id, "pending", "assistant", "ann"]


@pytest.mark.parametrize("instant", ["yesterday", "2026-11-22T08:00:00"])
def test_instant_without_an_offset_is_refused(run, instant):
    done = run("tasks", "--since", instant)
    wanted = "an instant in ISO 8601 with its offset, such as 2026-11-22T08:00:00Z"
    assert (done.exit_code, done.stderr) == (2, f"error: --since: expected {wanted}, got: {instant}\n")

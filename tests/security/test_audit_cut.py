"""Attacks on the audit log by a producer that holds its own key and its Redis user: what `--verify` finds, and not."""

import json

import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import NoPermissionError

from langgraph_rq import Client
from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.telemetry import anchors
from langgraph_rq.shared.telemetry.anchors import ANCHORS, AnchorWriter
from langgraph_rq.shared.telemetry.audit import HEADS, STREAM, Action, Audit, sign
from tests.fleet import one_node_graph, worker
from tests.shipped_users import shipped_users
from tests.waiting import until

PRODUCERS, WORKERS = "the key of the producers, in full", "the key of the workers, in full.."


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    with shipped_users(tmp_path_factory.mktemp("secrets")) as users:
        users.load_scripts()
        yield users


@pytest.fixture(autouse=True)
def _empty(users, monkeypatch):
    with Redis.from_url(users.url("admin")) as redis:
        redis.flushall()
        redis.acl_log_reset()
    monkeypatch.setenv("REDIS_URL", users.url("producer"))
    monkeypatch.setenv("LGRQ_AUDIT_KEY", PRODUCERS)
    monkeypatch.setenv("LGRQ_AUDIT_WORKER_KEY", WORKERS)


@pytest.fixture
def producer(users):
    with Redis.from_url(users.url("producer"), decode_responses=True) as redis:
        yield redis


@pytest.fixture
def anchor(users):
    """Anchor all that is new, as a worker does."""

    def anchor(*, key: str = WORKERS) -> None:
        with open_sync(users.url("worker")) as redis:
            while AnchorWriter(key).write(redis, "one", is_last=True):
                pass

    return anchor


def submit(users, *task_ids: str) -> None:
    with Client(users.url("producer")) as client:
        for task_id in task_ids:
            client.submit({"n": 1}, task_id=task_id)


def cut(producer: Redis) -> None:
    """Remove the newest entry and put its writer's head back."""
    (newest, entry), *_ = producer.xrevrange(STREAM, count=1)
    before = next(
        fields for _, fields in producer.xrevrange(STREAM, max=f"({newest}") if fields["writer"] == entry["writer"]
    )
    producer.xdel(STREAM, newest)
    producer.hset(HEADS, entry["writer"], f"{before['seq']} {before['digest']} {before['at']}")


def verify() -> tuple[int, dict]:
    done = CliRunner().invoke(main, ["audit", "--verify", "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def test_untouched_log_is_whole_and_anchored(users, anchor):
    submit(users, "a", "b")
    anchor()
    submit(users, "c")
    code, found = verify()
    assert (code, found["faults"], found["entries"], found["not_anchored"]) == (0, [], 3, 1)
    anchor()
    assert verify()[1]["not_anchored"] == 0
    assert users.refusals() == []


def test_cut_at_the_end_is_found(users, producer, anchor):
    submit(users, "a", "b", "c")
    anchor()
    cut(producer)
    code, found = verify()
    assert code == 1
    (fault,) = found["faults"]
    assert fault["writer"] == "anchor"
    assert "expected its 3 entries" in fault["what"]
    assert "got: 2" in fault["what"]


def test_cut_that_is_covered_by_new_entries_is_found(users, producer, anchor):
    submit(users, "a", "b", "c")
    anchor()
    cut(producer)
    submit(users, "d")
    anchor()
    assert verify()[0] == 1


def test_removed_log_is_found_without_heads_too(users, producer, anchor):
    submit(users, "a", "b")
    anchor()
    producer.delete(STREAM, HEADS)
    code, found = verify()
    assert (code, len(found["faults"])) == (1, 1)


def test_cut_before_the_next_anchor_is_not_found_as_the_docs_say(users, producer, anchor):
    submit(users, "a")
    anchor()
    submit(users, "b")
    cut_log = producer.xrevrange(STREAM, count=1)
    producer.xdel(STREAM, cut_log[0][0])
    producer.hdel(HEADS, cut_log[0][1]["writer"])
    assert verify()[0] == 0


def test_entry_that_is_replaced_by_another_one_of_its_writer_is_found(users, producer, anchor):
    submit(users, "a", "b")
    anchor()
    (entry_id, entry), *_ = producer.xrevrange(STREAM, count=1)
    entry["task"] = "another"
    entry["digest"] = sign(PRODUCERS.encode(), entry)
    producer.xdel(STREAM, entry_id)
    producer.xadd(STREAM, entry)
    producer.hset(HEADS, entry["writer"], f"{entry['seq']} {entry['digest']} {entry['at']}")
    assert verify()[0] == 1


def test_producer_forges_no_entry_of_a_worker(users, anchor):
    forger = Audit(PRODUCERS)
    with open_sync(users.url("producer")) as redis:
        run_sync(redis, forger.entry_call(Action.ENDED, "a", actor="one", outcome="success"))
    anchor()
    code, found = verify()
    assert code == 1
    assert [one["what"] for one in found["faults"]] == ["altered, or signed with another key"]


@pytest.mark.parametrize("command", [("DEL", ANCHORS), ("HSET", ANCHORS, "newest", "7"), ("HDEL", ANCHORS, "1")])
def test_producer_cannot_write_anchors(users, producer, anchor, command):
    submit(users, "a")
    anchor()
    with pytest.raises(NoPermissionError):
        producer.execute_command(*command)


def test_anchor_that_producers_key_signed_is_a_fault_and_is_not_signed_again(users, anchor):
    submit(users, "a")
    anchor(key=PRODUCERS)
    submit(users, "b")
    anchor()
    code, found = verify()
    assert code == 1
    assert ("anchor", 1, "altered, or signed with another key") in [tuple(one.values()) for one in found["faults"]]


def test_removed_anchor_is_a_fault(users, anchor, monkeypatch):
    monkeypatch.setattr(anchors, "_FULL", 1)
    for task_id in "abc":
        submit(users, task_id)
        anchor()
    assert verify()[1]["faults"] == []
    with Redis.from_url(users.url("admin")) as admin:
        admin.hdel(ANCHORS, "2")
    assert verify()[1]["faults"][0] == {"writer": "anchor", "seq": 2, "what": "removed, up to anchor 2"}


def test_long_log_is_anchored_in_batches_and_full_anchors_follow_each_other(users, producer, anchor, monkeypatch):
    monkeypatch.setattr(anchors, "_BATCH", 4)
    monkeypatch.setattr(anchors, "_FULL", 8)
    submit(users, *(f"task-{n}" for n in range(30)))
    anchor()
    code, found = verify()
    assert (code, found["not_anchored"], found["entries"]) == (0, 0, 30)
    assert int(producer.hget(ANCHORS, "newest")) == 4
    producer.xdel(STREAM, producer.xrange(STREAM, count=12)[-1][0])
    assert {(one["writer"], one["seq"]) for one in verify()[1]["faults"]} > {("anchor", 2)}


def test_workers_that_anchor_at_once_write_one_line_of_anchors(users, anchor):
    submit(users, "a", "b")
    with open_sync(users.url("worker")) as redis:
        (read, lines) = run_sync(redis, anchors.unanchored_call(0))
        mine = anchors.begin(None).extend(lines, "one").sign(WORKERS.encode())
        assert run_sync(redis, anchors.write_anchor_call(read, mine, 1_000_000)) is True
        assert run_sync(redis, anchors.write_anchor_call(read, mine, 1_000_000)) is False
        assert run_sync(redis, anchors.unanchored_call(60_000))[1] == []
    anchor()
    assert verify()[0] == 0


def test_entries_that_were_trimmed_are_no_fault_and_their_anchors_go(users, producer, anchor, monkeypatch):
    monkeypatch.setattr(anchors, "_FULL", 1)
    old = Audit(PRODUCERS, keep_days=1)
    with Redis.from_url(users.url("admin")) as admin:
        for n in range(3):
            entry = {"digest": "x"}
            admin.xadd(STREAM, entry, id=f"{1_000 + n}-0")
            anchor()
        admin.delete(STREAM)
        run_sync(admin, old.entry_call(Action.SUBMITTED, "a"))
    anchor()
    assert verify() == (0, verify()[1])
    assert "1" not in producer.hkeys(ANCHORS)


async def test_worker_anchors_while_it_runs_and_once_more_when_it_leaves(users, producer):
    async def echo(state: dict):
        return state

    telling = {"audit": Audit(WORKERS), "anchors": AnchorWriter(WORKERS)}
    async with worker(users.url("worker"), {"echo": one_node_graph(echo)}, **telling):
        submit(users, "a")
        await until(lambda: producer.hget(ANCHORS, "newest"))
    code, found = verify()
    assert (code, found["not_anchored"], found["faults"]) == (0, 0, [])
    assert users.refusals() == []


def test_check_without_the_workers_key_says_which_key_it_needs(users, anchor, monkeypatch):
    submit(users, "a")
    anchor()
    monkeypatch.delenv("LGRQ_AUDIT_WORKER_KEY")
    done = CliRunner().invoke(main, ["audit", "--verify"], catch_exceptions=False)
    assert done.exit_code == 1
    assert "LGRQ_AUDIT_WORKER_KEY is not set" in done.stdout

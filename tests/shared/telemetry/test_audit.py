"""The audit log's chains: what was altered or removed shows, and nothing else does."""

import json
import time

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.telemetry.audit import HEADS, STREAM, Action, Audit, actor, read_entries, verify

KEY = "a key of the tests"
DAY_MS = 86_400_000


@pytest.fixture
def audit(redis_url):
    return Audit(KEY)


@pytest.fixture
def log(aredis):
    """Append entries in one round trip, as callers do."""

    async def append(audit: Audit, *tasks: str, action: Action = Action.SUBMITTED, **details):
        await scripts.run_many(aredis, [audit.entry_call(action, task, **details) for task in tasks])

    return append


async def faults(aredis, key: str = KEY, now_ms: int | None = None) -> list[str]:
    heads = {name.decode(): value.decode() for name, value in (await aredis.hgetall(HEADS)).items()}
    entries = read_entries(await aredis.xrange(STREAM))
    now_ms = now_ms or round(time.time() * 1000)
    return [fault.what for fault in verify(entries, heads, key, keep_days=90, now_ms=now_ms)]


async def test_entries_say_who_did_what_to_which_task(audit, log, redis_client):
    token = actor.set("key of ann")
    await log(audit, "t1", input_sha256="abc")
    actor.reset(token)
    await log(audit, "t1", action=Action.ENDED, outcome="success", model=None)
    (_, first), (_, second) = redis_client.xrange(STREAM)
    assert (first["seq"], first["action"], first["task"]) == ("1", "submitted", "t1")
    assert json.loads(first["details"]) == {"actor": "key of ann", "input_sha256": "abc"}
    assert json.loads(second["details"])["outcome"] == "success"
    assert "model" not in second["details"]
    assert second["prev"] == first["digest"]


async def test_words_that_are_no_utf8_are_told_escaped(audit, log, aredis):
    await log(audit, "t1", reason="\ud800")
    ((_, entry),) = await aredis.xrange(STREAM)
    assert json.loads(entry[b"details"])["reason"] == "\ud800"
    assert await faults(aredis) == []


async def test_untouched_chains_of_several_writers_are_in_order(audit, log, aredis):
    other = Audit(KEY)
    await log(audit, "t1", "t2")
    await log(other, "t3")
    await log(audit, "t4")
    assert await faults(aredis) == []


async def test_entry_whose_reply_was_lost_stands_there_once(audit, aredis):
    call = audit.entry_call(Action.READ, "t1")
    await scripts.run_many(aredis, [call, call])
    assert await aredis.xlen(STREAM) == 1
    assert await faults(aredis) == []


async def test_entry_that_redis_never_answered_is_sent_with_the_next(audit, aredis):
    audit.entry_call(Action.READ, "t1")
    audit.entry_call(Action.READ, "t2")
    await scripts.run_many(aredis, audit.unacknowledged())
    assert audit.unacknowledged() == []
    assert await aredis.xlen(STREAM) == 2
    assert await faults(aredis) == []


async def test_entry_that_comes_before_its_turn_shuts_nobody_out(audit, aredis):
    first, second = audit.entry_call(Action.READ, "t1"), audit.entry_call(Action.READ, "t2")
    await scripts.run(aredis, second)
    assert await aredis.xlen(STREAM) == 0
    await scripts.run(aredis, first)
    await scripts.run_many(aredis, audit.unacknowledged())
    assert (await aredis.xlen(STREAM), audit.unacknowledged()) == (2, [])
    assert await faults(aredis) == []


async def test_entry_is_written_without_those_that_a_failover_lost_and_the_gap_shows(audit, log, aredis, monkeypatch):
    await log(audit, "t1")
    await aredis.delete(STREAM, HEADS)
    await log(audit, "t2")
    assert await aredis.xlen(STREAM) == 0
    monkeypatch.setattr("langgraph_rq.shared.telemetry.audit._PATIENCE_S", 0)
    await scripts.run_many(aredis, audit.unacknowledged())
    assert await faults(aredis) == ["1 entries before it were removed"]


async def test_entries_that_are_overdue_are_sent_once_and_then_the_oldest_until_it_is_taken(audit, aredis, monkeypatch):
    for task in ("t1", "t2", "t3"):
        audit.entry_call(Action.READ, task)
    assert audit.overdue() == []
    monkeypatch.setattr("langgraph_rq.shared.telemetry.audit._OVERDUE_S", 0)
    assert [len(audit.overdue()) for _ in range(3)] == [3, 1, 1]
    await scripts.run_many(aredis, audit.overdue())
    await scripts.run_many(aredis, audit.overdue())
    assert audit.overdue() == []
    assert await faults(aredis) == []


async def test_only_the_oldest_entry_may_follow_a_gap(audit, log, aredis):
    await log(audit, "t1")
    await aredis.delete(STREAM, HEADS)
    await log(audit, "t2", "t3")
    _, later = audit.unacknowledged(is_last=True)
    await scripts.run(aredis, later)
    assert await aredis.xlen(STREAM) == 0
    await scripts.run_many(aredis, audit.unacknowledged(is_last=True))
    assert (await aredis.xlen(STREAM), audit.unacknowledged()) == (2, [])


async def test_writer_that_gave_entries_up_goes_on_with_the_others(audit, aredis, monkeypatch):
    monkeypatch.setattr("langgraph_rq.shared.telemetry.audit._KEPT", 3)
    for number in range(5):
        audit.entry_call(Action.READ, f"t{number}")
    await scripts.run_many(aredis, audit.unacknowledged())
    assert [entry[b"task"] for _, entry in await aredis.xrange(STREAM)] == [b"t2", b"t3", b"t4"]
    assert await faults(aredis) == ["2 entries before it were removed"]


async def test_writer_whose_head_was_forgotten_by_age_goes_on(aredis):
    audit = Audit(KEY, keep_days=1)
    await scripts.run(aredis, audit.entry_call(Action.READ, "t1"))
    await aredis.delete(STREAM, HEADS)
    audit._at_ms -= 3 * DAY_MS  # as if that had been three days ago
    await scripts.run(aredis, audit.entry_call(Action.READ, "t2"))
    assert await aredis.xlen(STREAM) == 1


def test_only_the_newest_entries_wait_for_a_redis_that_takes_none(audit, monkeypatch):
    monkeypatch.setattr("langgraph_rq.shared.telemetry.audit._KEPT", 3)
    for number in range(5):
        audit.entry_call(Action.READ, f"t{number}")
    assert [call.args[7] for call in audit.unacknowledged()] == ["t2", "t3", "t4"]


@pytest.mark.parametrize("field", ["task", "action", "details", "at", "seq", "prev", "writer"])
async def test_altered_entry_shows(audit, log, aredis, field):
    await log(audit, "t1", "t2", "t3")
    rows = await aredis.xrange(STREAM)
    await aredis.delete(STREAM)
    for number, (entry_id, fields) in enumerate(rows):
        changed = {**fields, field.encode(): b"7"} if number == 1 else fields
        await aredis.xadd(STREAM, changed, id=entry_id)
    assert "altered, or signed with another key" in await faults(aredis)


@pytest.mark.parametrize(("number", "what"), [(0, "1 entries before it were removed"), (1, "removed or moved")])
async def test_removed_entry_shows(audit, log, aredis, number, what):
    await log(audit, "t1", "t2", "t3")
    rows = await aredis.xrange(STREAM)
    await aredis.xdel(STREAM, rows[number][0])
    assert what in "".join(await faults(aredis))


async def test_removed_newest_entry_shows_by_its_writers_head(audit, log, aredis):
    await log(audit, "t1", "t2", "t3")
    rows = await aredis.xrange(STREAM)
    await aredis.xdel(STREAM, rows[-1][0])
    assert await faults(aredis) == ["removed, up to entry 3"]


async def test_removed_log_shows_by_the_heads(audit, log, aredis):
    await log(audit, "t1", "t2")
    await aredis.delete(STREAM)
    assert await faults(aredis) == ["all entries up to this one were removed"]


async def test_removed_heads_show(audit, log, aredis):
    await log(audit, "t1")
    await aredis.delete(HEADS)
    assert await faults(aredis) == ["its head was removed"]


async def test_entries_signed_with_another_key_show(log, aredis):
    await log(Audit("another key"), "t1")
    assert await faults(aredis) == ["altered, or signed with another key"]


async def test_entries_that_were_forgotten_by_age_are_no_fault(audit, log, aredis):
    await log(audit, "t1", "t2", "t3")
    rows = await aredis.xrange(STREAM)
    await aredis.xdel(STREAM, rows[0][0])
    assert await faults(aredis, now_ms=round(time.time() * 1000) + 91 * DAY_MS) == []


async def test_log_forgets_itself(audit, log, redis_client):
    await log(audit, "t1")
    assert 90 * DAY_MS < redis_client.pttl(STREAM) <= 91 * DAY_MS
    assert 90 * DAY_MS < redis_client.pttl(HEADS) <= 91 * DAY_MS


async def test_heads_of_writers_that_are_long_gone_go_a_few_with_each_new_writer(log, aredis):
    old_ms = round(time.time() * 1000) - 92 * DAY_MS
    await aredis.hset(HEADS, mapping={f"old-{n}": f"1 {'0' * 64} {old_ms}" for n in range(400)})
    await log(Audit(KEY), "t1")
    assert await aredis.hlen(HEADS) >= 400 - 16
    for n in range(100):
        await log(Audit(KEY), f"t{n}")
    assert await aredis.hlen(HEADS) < 150


async def test_new_writer_begins_at_once_whatever_number_of_heads_there_is(log, aredis):
    """A producer may write heads; 178 ms of Redis were measured when each new writer looked at all of them."""
    now_ms = round(time.time() * 1000)
    for first in range(0, 100_000, 10_000):
        heads = {f"other-{n}": f"1 {'0' * 64} {now_ms}" for n in range(first, first + 10_000)}
        await aredis.hset(HEADS, mapping=heads)
    await aredis.slowlog_reset()
    await log(Audit(KEY), "t1")
    assert [one for one in await aredis.slowlog_get() if b"EVALSHA" in one["command"]] == []


async def test_odd_heads_keep_no_writer_from_its_log(log, aredis):
    await aredis.hset(HEADS, mapping={f"odd-{n}": "none" for n in range(20)})
    await log(Audit(KEY), "t1")
    assert await aredis.xlen(STREAM) == 1


@pytest.mark.parametrize("head", ["", "none", "1 2", "x y z", "1 digest x"])
async def test_head_that_cannot_be_read_is_a_fault(audit, log, aredis, head):
    await log(audit, "t1")
    ((writer, _),) = (await aredis.hgetall(HEADS)).items()
    await aredis.hset(HEADS, writer, head)
    assert await faults(aredis) == ["its head was altered"]


@pytest.mark.parametrize("seq", ["none", "", "1.5", "-"])
async def test_entry_whose_number_cannot_be_read_is_a_fault(audit, log, aredis, seq):
    await log(audit, "t1")
    ((_, entry),) = await aredis.xrange(STREAM)
    await aredis.xadd(STREAM, {**entry, b"seq": seq, b"writer": b"other"})
    assert "altered, or signed with another key" in await faults(aredis)


def test_fork_begins_a_chain_of_its_own(audit):
    before = audit.entry_call(Action.READ, "t1").args
    audit._pid = -1  # what a child process finds: another process' number
    after = audit.entry_call(Action.READ, "t2").args
    assert before[1] != after[1]
    assert (before[2], after[2]) == ("1", "1")


def test_key_must_be_set():
    with pytest.raises(ValueError, match="expected the audit log's key to be set"):
        Audit("")

"""Sharing the entries of a stream between the members of a consumer group."""

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from langgraph_rq.shared.connections import stream_consumer
from langgraph_rq.shared.connections.stream_consumer import StreamConsumer

STREAM, GROUP = "agent:test:stream", "readers"


@pytest.fixture
def raw(redis_url) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client
        client.delete(STREAM)


def member(raw, name: str = "one", *, batch: int = 3, retry_after_ms: int = 0) -> StreamConsumer:
    return StreamConsumer(
        raw,
        stream=STREAM,
        group=GROUP,
        name=name,
        batch=batch,
        retry_after_ms=retry_after_ms,
        stream_ttl_ms=60_000,
    )


def write(raw, *values: str) -> None:
    for value in values:
        raw.xadd(STREAM, {"value": value})


def values(entries) -> list[str]:
    return [entry.fields[b"value"].decode() for entry in entries]


def members(raw) -> list[str]:
    return [consumer["name"].decode() for consumer in raw.xinfo_consumers(STREAM, GROUP)]


def test_entries_written_before_the_group_are_delivered_each_to_one_member(raw):
    write(raw, *"abcd")
    assert values(member(raw, "one").read_new()) == ["a", "b", "c"]
    assert values(member(raw, "two").read_new()) == ["d"]


def test_entry_that_was_not_acknowledged_is_delivered_again_to_another_member(raw):
    write(raw, "a", "b")
    dead, heir = member(raw, "dead"), member(raw, "heir")
    first, _ = dead.read_new()
    dead.acknowledge([first])
    assert values(heir.take_overdue()) == ["b"]


def test_entry_is_not_taken_over_before_it_is_due(raw):
    write(raw, "a")
    member(raw, "slow").read_new()
    assert member(raw, "hasty", retry_after_ms=60_000).take_overdue() == []


def test_all_overdue_entries_are_found_however_many_pages_they_fill(raw):
    write(raw, *map(str, range(100)))
    member(raw, "dead", batch=100).read_new()
    heir, found = member(raw, "heir", batch=3), []
    while entries := heir.take_overdue():
        heir.acknowledge(entries)
        found += values(entries)
    assert found == [str(n) for n in range(100)]


def test_overdue_entry_is_found_behind_many_that_are_not_due(raw):
    write(raw, *map(str, range(100)))
    entries = member(raw, "busy", batch=100).read_new()
    raw.execute_command("XCLAIM", STREAM, GROUP, "busy", 0, entries[-1].id, "IDLE", 120_000)
    assert values(member(raw, "heir", batch=3, retry_after_ms=60_000).take_overdue()) == ["99"]


def test_acknowledged_entry_stays_in_the_stream_unless_it_is_deleted(raw):
    write(raw, "a", "b")
    reader = member(raw)
    first, second = reader.read_new()
    reader.acknowledge([first])
    reader.acknowledge([second], delete=True)
    reader.acknowledge([])
    assert [fields for _, fields in raw.xrange(STREAM)] == [{b"value": b"a"}]
    assert raw.xpending(STREAM, GROUP)["pending"] == 0


@pytest.mark.parametrize("method", ["read_new", "take_overdue"])
def test_group_is_created_again_after_the_stream_was_deleted(raw, method):
    reader = member(raw)
    reader.read_new()
    raw.delete(STREAM)
    assert getattr(reader, method)() == []
    write(raw, "after")
    assert values(reader.read_new()) == ["after"]


def test_stream_that_the_group_creates_expires(raw):
    member(raw).read_new()
    assert 0 < raw.pttl(STREAM) <= 60_000


def test_entry_that_was_trimmed_while_it_was_pending_is_left_out(raw):
    write(raw, "a", "b")
    member(raw, "dead").read_new()
    raw.xtrim(STREAM, maxlen=1, approximate=False)
    assert values(member(raw, "heir").take_overdue()) == ["b"]


def test_other_errors_are_raised(raw):
    raw.set(STREAM, "no stream")
    for call in (member(raw).read_new, member(raw).take_overdue, member(raw).leave):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            call()


def test_member_that_leaves_is_removed_unless_it_has_pending_entries(raw):
    write(raw, "a")
    busy, idle = member(raw, "busy"), member(raw, "idle")
    busy.read_new()
    idle.read_new()
    idle.leave()
    busy.leave()
    assert members(raw) == ["busy"]


def test_member_that_was_killed_is_removed_once_its_entries_were_taken_over(raw, monkeypatch):
    write(raw, "a")
    member(raw, "dead").read_new()
    monkeypatch.setattr(stream_consumer, "_DEAD_MS", -1)
    heir = member(raw, "heir")
    heir.acknowledge(heir.take_overdue())
    assert members(raw) == ["dead", "heir"]
    member(raw, "late").read_new()
    assert "dead" not in members(raw)


def test_time_of_an_entry_is_part_of_its_id(raw):
    raw.xadd(STREAM, {"value": "a"}, id="1700000000000-5")
    (entry,) = member(raw).read_new()
    assert entry.written_at_ms == 1_700_000_000_000

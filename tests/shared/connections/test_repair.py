"""Scripts meet keys that other programs gave another type."""

import pytest
from redis.exceptions import ResponseError

from langgraph_rq.shared.connections.scripts import load_script
from langgraph_rq.shared.queue.attempts import owns_call

READ = "return redis.call('HMGET', KEYS[1], 'a', 'b')"


@pytest.fixture
def run(redis_client):
    prelude, _, _ = load_script("shared/queue/scripts/leave").source.partition("return (function()")
    _, _, prelude = prelude.partition("\n")

    def run(body: str, *keys: str, flags: str = "", repaired: bool = True):
        return redis_client.eval(flags + (prelude if repaired else "") + body, len(keys), *keys)

    return run


def test_key_of_another_type_is_deleted_and_as_good_as_none(run, redis_client):
    redis_client.rpush("k", "x")
    assert run(READ, "k") == [None, None]
    assert not redis_client.exists("k")


def test_without_the_prelude_it_would_stop_the_script(run, redis_client):
    redis_client.rpush("k", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        run(READ, "k", repaired=False)


@pytest.mark.parametrize("how", ["call", "pcall"])
def test_write_finds_the_key_empty(run, redis_client, how):
    redis_client.set("k", "x")
    assert run(f"return redis.{how}('ZADD', KEYS[1], 1, 'a')", "k") == 1
    assert redis_client.zrange("k", 0, -1) == ["a"]


def test_reading_script_gets_an_empty_answer_and_changes_nothing(run, redis_client):
    redis_client.rpush("k", "x")
    assert run(READ, "k", flags="#!lua flags=no-writes\n") == [None, None]
    assert redis_client.type("k") == "list"


@pytest.mark.parametrize("value", ["x", "1.5", str(2**63 - 1)])
def test_field_that_cannot_be_counted_on_is_counted_anew(run, redis_client, value):
    redis_client.hset("k", mapping={"n": value, "m": "kept"})
    assert run("return redis.call('HINCRBY', KEYS[1], 'n', 2)", "k") == 2
    assert redis_client.hget("k", "m") == "kept"


def test_other_errors_stay_errors(run, redis_client):
    with pytest.raises(ResponseError, match="Wrong number"):
        run("return redis.call('HGET', KEYS[1])", "k")
    redis_client.hset("k", "n", 1)
    with pytest.raises(ResponseError, match="not an integer"):
        run("return redis.call('HINCRBY', KEYS[1], 'n', 'x')", "k")
    assert redis_client.hget("k", "n") == "1"
    with pytest.raises(ResponseError, match=r"Unknown (Redis )?command"):
        run("return redis.call('NO-SUCH-COMMAND', KEYS[1])", "k")


def test_every_script_is_loaded_behind_it():
    assert "local redis = {call = call" in owns_call("t", 1, "w").script.source

"""Lines about an outage of Redis: one when it begins and one when it is over, however many calls fail."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from langgraph_rq.shared.telemetry.outage import Outage

AWAY = RedisConnectionError("Error 111 connecting to 127.0.0.1:6379.")


@pytest.fixture
def outage():
    return Outage()


def test_outage_is_one_line_at_its_begin_and_one_at_its_end(outage, lines):
    for _ in range(3):
        assert outage.covers("claim", AWAY)
        assert outage.covers("renew", OSError("broken pipe"))
    outage.passed("claim")
    assert not lines.named("redis.recovered"), "a renewal is not answered yet"
    outage.passed("renew")
    outage.passed("renew")
    (lost,), (recovered,) = lines.named("redis.lost"), lines.named("redis.recovered")
    assert (lost["level"], lost["error"]) == ("warning", str(AWAY))
    assert recovered["away_s"] >= 0


def test_second_outage_has_lines_of_its_own(outage, lines):
    for _ in range(2):
        outage.covers("claim", AWAY)
        outage.passed("claim")
    assert len(lines.named("redis.lost")) == len(lines.named("redis.recovered")) == 2


def test_error_of_a_command_is_no_outage(outage, lines):
    assert not outage.covers("claim", ResponseError("WRONGTYPE not a list"))
    outage.passed("claim")
    assert lines.getvalue() == ""

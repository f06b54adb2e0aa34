"""The options of `langgraph-worker`."""

from langgraph_rq.worker.command import queue_names


def test_blanks_around_the_names_of_queues_are_none_of_theirs():
    assert queue_names("high, default ,low,high") == ["high", "default", "low"]

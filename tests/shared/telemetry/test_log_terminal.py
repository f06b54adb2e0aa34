"""Log lines on a terminal: what a person looks for comes first, and an event is one line."""

import io
import logging
import re

import pytest

from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry.log_output import Event, Lines

TASK = "7f9c2a1e-1111-4222-8333-444455556666"
BOUND = {"task_id": TASK, "attempt": 1}
REST = {"worker": "host-1-abcdef12", "graph": "desk", "thread_id": "th", "user_id": "ann", "trace_id": "aa" * 16}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def line(monkeypatch):
    """Write an event, without colours; answers the line after its time."""
    monkeypatch.setenv("NO_COLOR", "1")

    def write(event: str, level: str = "INFO", **fields: object) -> str:
        lines = Lines(Terminal(), Redactor())
        told = Event({"event": event, **BOUND, **REST, **fields})
        lines.handle(logging.makeLogRecord({"msg": told, "levelname": level, "name": "l"}))
        (written,) = lines.stream.getvalue().splitlines()
        time, _, rest = written.partition(" ")
        assert re.fullmatch(r"\d\d:\d\d:\d\d", time)
        return rest

    return write


def test_task_node_model_and_cost_come_first(line):
    called = {"provider": "openai", "cost_nano_usd": 48_000, "model": "gpt-4o-mini", "node": "answer"}
    assert line("model.called", **called) == (
        "[info   ] model.called       7f9c2a1e answer gpt-4o-mini $0.000048 provider=openai"
    )


def test_graph_stands_for_the_node_that_a_line_does_not_have(line):
    assert line("task.started", queued_ms=3) == "[info   ] task.started       7f9c2a1e desk queued_ms=3"
    assert line("task.started", attempt=2).endswith("7f9c2a1e desk attempt=2")


def test_money_is_shown_as_people_read_it(line):
    assert "desk $2.34 state=success" in line("task.completed", cost_nano_usd=2_340_000_000, state="success")
    assert "$" not in line("task.completed", cost_nano_usd=0)


def test_ids_that_people_chose_are_whole_and_a_list_is_no_python(line):
    assert "order-2026-000123 desk" in line("task.started", task_id="order-2026-000123")
    assert line("worker.started", task_id=None, graph=None, queues=["a", "b"]).endswith(
        "worker.started     worker=abcdef12 queues='a, b'"
    ), line("worker.started", task_id=None, graph=None, queues=["a", "b"])


def test_exception_is_its_type_and_where_it_was_raised(line):
    raised = {"type": "ValueError", "frames": ["a.py:1 in outer", "b.py:2 in inner"]}
    assert line("task.broken", level="ERROR", exception=raised) == (
        "[error  ] task.broken        7f9c2a1e desk error=ValueError in='b.py:2 in inner'"
    )


def test_failed_task_shows_the_exception_and_the_users_own_line(line):
    frames = ["  langgraph/main.py:1 ainvoke", "> graph.py:5 greet", "  json/decoder.py:2 decode", "from KeyError"]
    assert line("task.failed", level="WARNING", error="graph_error", exception="KeyError", frames=frames) == (
        "[warning] task.failed        7f9c2a1e desk error='graph_error: KeyError' in='graph.py:5 greet'"
    )


def test_line_of_a_library_is_its_text(line):
    assert line("Worker w1 is here", node="n").startswith("[info   ] Worker w1 is here  7f9c2a1e n")

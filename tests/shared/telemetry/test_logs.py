"""Log lines: JSON, bound by context, masked, without content, and impossible to forge."""

import contextvars
import io
import logging
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from langgraph_rq.shared.errors import RedisUnavailableError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry import logs
from tests.log_lines import Lines, Terminal

LOGGER = "langgraph_rq.tests"
log = logs.get_logger(LOGGER)


def log_raised(error: Exception) -> None:
    def fail() -> None:
        raise error

    try:
        fail()
    except type(error):
        log.exception("commit.failed")


def test_event_is_one_json_object_with_what_is_bound(lines):
    logs.bind(task_id="t1", graph="g", attempt=2)
    log.info("node.completed", duration_ms=3, error=None)
    (line,) = lines.objects()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "node.completed",
        "level": "info",
        "logger": LOGGER,
        "duration_ms": 3,
        "task_id": "t1",
        "graph": "g",
        "attempt": 2,
    }


def test_lines_of_the_standard_library_and_of_rq_look_the_same(lines):
    logs.bind(task_id="t1")
    logging.getLogger("rq.worker").warning("Worker %s died", "w1")
    (line,) = lines.objects()
    assert (line["event"], line["logger"], line["task_id"]) == ("Worker w1 died", "rq.worker", "t1")


def test_level_is_respected_and_libraries_that_log_each_request_are_quiet(lines):
    log.debug("node.started")
    logging.getLogger("httpx").info("GET /")
    logging.getLogger("rq.worker").debug("detail")
    assert lines.getvalue() == ""


@pytest.mark.parametrize(
    "evil", ['x"}\n{"event": "task.completed"}', "a\r\nb", "a\u2028b", "a\x85b", "\x1b[2Jgone", "a\x9b31mb", "a\u202eb"]
)
@pytest.mark.parametrize("kind", [Lines, Terminal])
def test_line_cannot_be_forged(restored, kind, evil):
    out = kind()
    logs.configure(stream=out)
    log.info("job.dropped", job_id=evil)
    logging.getLogger("rq.worker").warning("%s", evil)
    written = re.sub(r"\x1b\[\d*m", "", out.getvalue())  # the terminal's own colours
    assert len(written.splitlines()) == 2
    assert not set("\x1b\x9b\u202e") & set(written)


@pytest.mark.parametrize("job_id", ["plain", "a\u2028b", "half of a pair \ud800"])
def test_instant_is_iso_8601_in_utc_however_the_line_is_written(lines, job_id):
    before = datetime.now(UTC)
    log.warning("job.dropped", job_id=job_id)
    (line,) = lines.objects()
    assert before <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)
    assert line["timestamp"].endswith("Z")


def test_personal_data_and_secrets_are_masked_but_ids_of_ours_are_not(lines):
    logs.bind(user_id="ann@example.com", task_id="4111111111111111")
    log.warning(
        "claim.failed", error="redis://:pw123456@host gave sk-abcdEFGH1234567890abcd", hosts=["bob@example.com"]
    )
    (line,) = lines.objects()
    assert (line["user_id"], line["task_id"]) == ("[email]", "4111111111111111")
    assert line["error"] == "redis://:[secret]@host gave [secret]"
    assert line["hosts"] == ["[email]"]


def test_own_patterns_are_masked_too(restored):
    out = Lines()
    logs.configure(redactor=Redactor({"case": r"CASE-\d+"}), stream=out)
    log.info("task.started", note="for CASE-123")
    assert out.objects()[0]["note"] == "for [case]"


def test_exception_is_logged_without_what_it_says_and_without_variables(lines):
    def node(secret_prompt):
        raise ValueError(f"cannot handle {secret_prompt}")

    try:
        node("the canary")
    except ValueError:
        log.exception("commit.failed")
        logging.getLogger("some.library").exception("failed")
    assert "canary" not in lines.getvalue()
    for line in lines.objects():
        assert line["exception"]["type"] == "ValueError"
        assert line["exception"]["frames"][-1].endswith("in node")


def test_exception_of_operations_keeps_its_message(lines):
    log_raised(RedisUnavailableError("redis://***@host", "refused"))
    assert lines.objects()[0]["exception"]["message"] == "cannot reach Redis at redis://***@host: refused"


def test_terminal_shows_a_readable_line_and_no_variables(restored):
    out = Terminal()
    logs.configure(stream=out)
    log_raised(ValueError("the canary"))
    assert "commit.failed" in out.getvalue()
    assert "canary" not in out.getvalue()


def test_asyncios_complaints_do_not_quote_an_exception(lines):
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task exception=ValueError('canary')>"
    )
    assert lines.objects()[0]["event"] == "Task exception was never retrieved"


def test_programs_that_use_structlog_themselves_write_the_same_lines(lines):
    logs.bind(task_id="t1")
    with logs.queued():
        log.info("task.started")
        structlog.get_logger().debug("lookup.began")
        structlog.get_logger().warning("lookup.done", address="ann@example.com")
    first, second = lines.objects()
    assert first["event"] == "task.started"
    assert (second["event"], second["level"], second["task_id"]) == ("lookup.done", "warning", "t1")
    assert second["address"] == "[email]"


def test_fields_that_users_bind_with_structlog_are_in_the_lines_and_take_no_place_of_ours(lines):
    logs.bind(task_id="t1", node="a")
    with structlog.contextvars.bound_contextvars(order="o1", task_id="forged"):
        log.info("node.completed")
        structlog.contextvars.clear_contextvars()
        logs.bind(node=None)
        log.info("task.completed")
    first, second = lines.objects()
    assert (first["order"], first["task_id"], first["node"]) == ("o1", "t1", "a")
    assert (second["task_id"], "order" in second, "node" in second) == ("t1", False, False)


def test_fields_bound_in_a_context_stay_in_it(lines):
    logs.bind(task_id="t1")
    contextvars.copy_context().run(logs.bind, node="a")
    log.info("task.started")
    assert "node" not in lines.objects()[0]


@pytest.mark.parametrize("text", ["plain", "\u00e4"])
def test_values_of_all_kinds_are_written_as_json_can_hold_them(lines, text):
    log.info("task.started", text=text, big=2**70, long=float("inf"), at={1: {"a"}, "b": (None, True)}, path=Path("p"))
    (line,) = lines.objects()
    assert (line["text"], line["big"], line["long"], line["path"]) == (text, 2**70, float("inf"), "p")
    assert line["at"] == {"1": ["a"], "b": [None, True]}


class Unreadable:
    def __str__(self) -> str:
        raise ValueError("the canary")


@pytest.mark.parametrize("kind", [Lines, Terminal])
def test_value_that_cannot_be_read_costs_nothing_but_its_line(restored, kind):
    out = kind()
    logs.configure(stream=out)
    with logs.queued():
        log.info("task.started", note=Unreadable())
        log.info("task.completed")
    first, second = out.getvalue().splitlines()
    assert "task.started" in first
    assert "ValueError" in first
    assert "task.completed" in second


def test_stream_that_takes_nothing_fails_nobody(lines):
    lines.close()
    log.warning("task.fenced")


def test_program_that_configures_nothing_gets_events_in_its_own_logging(restored, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        log.info("task.submitted", task_id="t1", note="a\nb")
    assert caplog.messages == [r"task.submitted task_id=t1 note=a\nb"]


def test_handler_of_the_program_can_format_any_field_of_an_event_of_ours(lines):
    handler = logging.StreamHandler(out := io.StringIO())
    names = "levelname name module lineno funcName process processName thread threadName message"
    handler.setFormatter(logging.Formatter("%(asctime)s " + " ".join(f"%({name})s" for name in names.split())))
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        log.info("task.started", task_id="t1")
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)
    shown = out.getvalue()
    assert f"INFO {LOGGER}" in shown
    assert f" {os.getpid()} " in shown
    assert f" {threading.get_ident()} " in shown
    assert shown.endswith("task.started task_id=t1\n")
    assert lines.objects()[0]["event"] == "task.started"


def test_record_factory_of_the_program_makes_the_records_of_our_events(lines):
    made = []

    def factory(*args, **kwargs):
        made.append(logging.LogRecord(*args, **kwargs))
        return made[-1]

    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(factory)
    try:
        log.info("task.started", task_id="t1")
    finally:
        logging.setLogRecordFactory(before)
    assert [str(record.msg) for record in made] == ["task.started task_id=t1"]
    assert lines.objects()[0]["event"] == "task.started"

"""Log lines: JSON, bound by context, masked, without content, and impossible to forge."""

import ast
import contextvars
import gc
import io
import json
import logging
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread

import pytest
import structlog

from langgraph_rq.shared.errors import RedisUnavailableError
from langgraph_rq.shared.redaction import Redactor
from langgraph_rq.shared.telemetry import log_output, logs
from tests.waiting import until_sync

ROOT = Path(__file__).parents[3]
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


class Lines(io.StringIO):
    def objects(self) -> list[dict]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


class Terminal(Lines):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def restored():
    """Leave logging as other tests want it."""
    root, level, handlers = logging.getLogger(), logging.getLogger().level, logging.getLogger().handlers
    yield
    logs.bind(**dict.fromkeys(logs.bound()))
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.reset()


@pytest.fixture
def lines(restored) -> Lines:
    out = Lines()
    logs.configure("info", stream=out)
    return out


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


def test_queued_lines_come_in_their_order_and_all_are_written_at_the_end(lines):
    with logs.queued():
        log.info("task.started")
        until_sync(lines.objects, 5)
        log.info("node.completed")
        logging.getLogger("rq.worker").info("Worker w1 is here")
        log.warning("task.fenced")
    told = [line["event"] for line in lines.objects()]
    assert told == ["task.started", "node.completed", "Worker w1 is here", "task.fenced"]
    log.info("worker.stopped")
    assert lines.objects()[-1]["event"] == "worker.stopped"


def test_queued_line_has_the_arguments_and_the_context_of_the_moment_at_which_it_was_logged(lines):
    with logs.queued():
        names = ["ann"]
        logs.bind(task_id="t1")
        logging.getLogger("some.library").warning("read %s", names)
        logs.bind(task_id="t2")
        names.append("bob")
    (line,) = lines.objects()
    assert (line["event"], line["task_id"]) == ("read ['ann']", "t1")


def test_each_line_is_written_at_once_at_level_debug(restored):
    out = Lines()
    logs.configure("debug", stream=out)
    with logs.queued():
        log.info("task.started")
        assert [line["event"] for line in out.objects()] == ["task.started"]


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


def test_fork_repeats_no_line_that_was_held_and_writes_its_own_at_once(restored, tmp_path):
    path = tmp_path / "log"
    with path.open("w") as out:
        logs.configure(stream=out)
        with logs.queued({"worker.started": print}):
            log.info("task.started")
            child = os.fork()
            if child == 0:
                log.info("worker.started")
                os._exit(0)
            os.waitpid(child, 0)
    told = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert sorted(told) == ["task.started", "worker.started"]


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


class TellsWhileWritten:
    """A value whose reading logs through the standard library, as a finalizer may at any time."""

    def __str__(self) -> str:
        logging.getLogger("some.library").warning("read")
        return "a value"


def test_writer_never_waits_for_a_thread_that_waits_for_it(restored):
    lines = Lines()
    logs.configure(stream=lines)  # here, without pytest's own handlers, which read the value too

    def tell() -> None:
        for _ in range(200):
            log.warning("job.dropped", note=TellsWhileWritten())

    def tell_the_standard_library() -> None:
        for _ in range(200):
            logging.getLogger("rq.worker").warning("hello")

    threads = [Thread(target=run, daemon=True) for run in (tell, tell_the_standard_library)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(lines.objects()) == 600


class Pieces(Lines):
    """A stream that remembers how it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_lines_are_written_in_pieces_of_whole_lines_that_a_pipe_takes_at_once(restored):
    out = Pieces()
    logs.configure(stream=out)
    with logs.queued():
        for number in range(100):
            log.info("task.started", number=number, note="x" * (5_000 if number == 50 else 50))
    assert [line["number"] for line in out.objects()] == list(range(100))
    assert all(piece.endswith("\n") for piece in out.pieces)
    assert all(len(piece) <= 4_096 or piece.count("\n") == 1 for piece in out.pieces)


def test_lines_gather_until_a_warning_and_are_then_written_by_one_call(restored, monkeypatch):
    monkeypatch.setattr(log_output, "GATHER_S", 60)
    out = Pieces()
    logs.configure(stream=out)
    with logs.queued():
        log.info("worker.started")
        until_sync(out.objects, 20)
        for number in range(20):
            log.info("node.completed", writes=number)
        assert len(out.pieces) == 1
        log.warning("task.fenced")
        until_sync(lambda: len(out.pieces) == 2, 20)
        assert [line.get("writes") for line in out.objects()] == [None, *range(20), None]
        log.info("worker.stopped")
    assert len(out.pieces) == 3


class Stuck(Lines):
    """A stream that nothing is read from, until it is."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full, self.is_read = Event(), Event()

    def write(self, text: str) -> int:
        self.is_full.set()
        assert self.is_read.wait(20)
        return super().write(text)


@pytest.fixture
def stuck(restored, monkeypatch) -> Stuck:
    """A log that nothing reads, of which ten lines are kept."""
    monkeypatch.setattr(log_output, "MOST_QUEUED", 10)
    out = Stuck()
    logs.configure(stream=out)
    return out


def log_a_hundred_lines(out: Stuck) -> None:
    """Log the first one, which the writer is stuck with, and 99 others."""
    log.info("task.started", number=0)
    assert out.is_full.wait(20)
    for number in range(1, 100):
        log.info("task.started", number=number)


def test_lines_that_nothing_reads_hold_up_no_task_and_take_a_bounded_memory(stuck):
    with logs.queued():
        log_a_hundred_lines(stuck)
        stuck.is_read.set()
    *written, last = stuck.objects()
    assert [line["number"] for line in written] == list(range(11))
    assert (last["event"], last["lines"]) == ("lines.dropped", 89)


def test_dropped_lines_are_counted_and_recorded_once_where_they_are_missing(stuck):
    counted = []
    with logs.queued({"lines.dropped": lambda told: counted.append(told["lines"])}):
        logs.bind(task_id="t1")
        log_a_hundred_lines(stuck)
        stuck.is_read.set()
        until_sync(logging.getLogger().handlers[-1].queue.empty, 20)
        log.info("task.completed")
        log.info("worker.stopped")
    *_written, gap, completed, stopped = stuck.objects()
    assert (gap["event"], gap["level"], gap["lines"]) == ("lines.dropped", "warning", 89)
    assert "task_id" not in gap
    assert (completed["event"], stopped["event"]) == ("task.completed", "worker.stopped")
    assert counted == [89]


def test_stream_that_takes_nothing_fails_nobody(lines):
    lines.close()
    log.warning("task.fenced")


def test_listeners_hear_events_whatever_the_level(lines):
    heard = []
    logs.bind(task_id="t1")
    with logs.queued({"node.started": lambda told: heard.append((told["task_id"], told["node"]))}):
        log.debug("node.started", node="a")
    log.debug("node.started", node="b")
    assert heard == [("t1", "a")]
    assert lines.getvalue() == ""


def test_listener_that_fails_is_an_error_line_and_keeps_no_other_back(lines):
    heard = []

    def hear(told) -> None:
        heard.append(told["no such field"])

    with logs.queued({"node.started": hear, "node.completed": heard.append}):
        log.info("node.started")
        log.info("node.completed")
        until_sync(lambda: len(lines.objects()) == 3)
    assert [told["event"] for told in heard] == ["node.completed"]
    (error,) = [line for line in lines.objects() if line["level"] == "error"]
    assert (error["event"], error["counted"], error["exception"]["type"]) == (
        "event.not_counted",
        "node.started",
        "KeyError",
    )


class LogsWhenCollected:
    """An object in a reference cycle whose finalizer logs an event, as a finalizer may, in any thread."""

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        log.info("task.reaped")


@pytest.mark.parametrize("level", ["info", "debug"])
def test_event_that_a_finalizer_logs_waits_for_no_lock_of_the_code_that_it_interrupts(restored, level):
    lock, heard = Lock(), []
    logs.configure(level, stream=Lines())

    def count(told) -> None:
        with lock:
            heard.append(told["event"])

    def scrape() -> None:
        with lock:
            LogsWhenCollected()
            gc.collect()

    with logs.queued({"task.reaped": count}):
        scraping = Thread(target=scrape, daemon=True)
        scraping.start()
        scraping.join(20)
        assert not scraping.is_alive()
    assert heard == ["task.reaped"]


def test_line_waits_for_no_thread_that_logs_while_it_is_waited_for(restored):
    """The arguments of a record may need a lock whose owner logs something meanwhile."""
    lines = Lines()
    logs.configure(stream=lines)  # here, so that pytest's own handlers, which have locks, are gone
    lock, is_held, is_read = Lock(), Event(), Event()

    class NeedsTheLock:
        def __str__(self) -> str:
            is_read.set()
            with lock:
                return "a value"

    def log_with_the_lock() -> None:
        with lock:
            is_held.set()
            assert is_read.wait(20)
            log.info("task.started")

    with logs.queued():
        owner = Thread(target=log_with_the_lock, daemon=True)
        owner.start()
        assert is_held.wait(20)
        other = Thread(target=logging.getLogger("some.library").warning, args=("%s", NeedsTheLock()), daemon=True)
        other.start()
        for thread in (owner, other):
            thread.join(20)
            assert not thread.is_alive()
    assert len(lines.objects()) == 2


def test_program_that_configures_nothing_gets_events_in_its_own_logging(restored, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        log.info("task.submitted", task_id="t1", note="a\nb")
    assert caplog.messages == [r"task.submitted task_id=t1 note=a\nb"]


def events_in_source() -> set[str]:
    """The first argument of every call of a logger, and the tables of names that such calls use."""
    found = set()
    for path in (path for folder in ("producer", "worker", "shared") for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _is_log_call(node):
                found |= {one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)}
            names = {getattr(target, "id", "") for target in node.targets} if isinstance(node, ast.Assign) else set()
            if isinstance(node, ast.Assign) and names & {"_TRANSITIONS", "event"}:
                found |= {one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)}
    return {event for event in found if isinstance(event, str) and EVENT.fullmatch(event)}


def _is_log_call(node: ast.Call) -> bool:
    methods = {"debug", "info", "warning", "error", "exception"}
    if isinstance(node.func, ast.Name) and node.func.id == "Event":
        return bool(node.args)
    is_method = isinstance(node.func, ast.Attribute) and node.func.attr in methods
    if is_method and isinstance(node.func.value, ast.Name):
        return node.func.value.id == "_log" and bool(node.args)
    return isinstance(node.func, ast.Name) and node.func.id == "log" and bool(node.args)


def events_in_docs() -> set[str]:
    text = (ROOT / "docs/observability.md").read_text()
    table = text.partition("## Log events")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)`", table, re.MULTILINE))


def test_every_event_is_in_the_documentation_and_no_other():
    assert events_in_source() == events_in_docs()

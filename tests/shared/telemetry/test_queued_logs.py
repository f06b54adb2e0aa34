"""Log lines that a thread writes: in order, in pieces that a pipe takes, and holding up no code that logs."""

import gc
import json
import logging
import os
from threading import Event, Lock, Thread

import pytest

from langgraph_rq.shared.telemetry import log_output, logs
from tests.log_lines import Lines
from tests.waiting import until_sync

log = logs.get_logger("langgraph_rq.tests")


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


def test_lines_for_a_file_are_written_by_one_call_as_a_file_takes_any_number(restored, monkeypatch, tmp_path):
    monkeypatch.setattr(log_output, "GATHER_S", 60)
    out = Pieces()
    with (tmp_path / "log").open("w") as file:
        out.fileno = file.fileno
        logs.configure(stream=out)
        with logs.queued():
            log.info("worker.started")
            until_sync(out.objects, 20)
            for number in range(100):
                log.info("task.started", number=number, note="x" * 1_000)
    assert [line.get("number") for line in out.objects()] == [None, *range(100)]
    assert len(out.pieces) == 3
    assert 60_000 < len(out.pieces[1]) <= 65_536


@pytest.mark.parametrize("fileno", [None, lambda: None, lambda: -1])
def test_stream_without_a_descriptor_is_written_to_as_to_a_pipe(restored, fileno):
    out = Pieces()
    out.fileno = fileno
    logs.configure(stream=out)
    with logs.queued():
        for number in range(100):
            log.info("task.started", number=number, note="x" * 50)
    assert [line["number"] for line in out.objects()] == list(range(100))
    assert all(len(piece) <= 4_096 for piece in out.pieces)


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

"""What is written for people: it fits the terminal, and in a pipe nothing is wrapped, cut or coloured."""

import sys

import pytest

from tests.outputs import COLOURS, in_pipe, in_terminal, lines

WRITE = """
from rich.console import Group
from rich.text import Text
from langgraph_rq.producer.cli.views.output import results, result
from langgraph_rq.shared import terminal
from langgraph_rq.shared.results import (ResultMetadata, TaskError, TaskResult)
from langgraph_rq.shared.tasks import State

def rows(tasks, words):
    table = terminal.Rows("task", terminal.Column("tokens", right=True), "none", terminal.Column("why", wraps=True))
    for number in range(tasks):
        table.add_row(f"task-{number}", str(10 ** number), None, Text(" ".join(["reason"] * words), "red"))
    return table

def ended(**given):
    metadata = ResultMetadata(graph="g", attempts=1, queued_ms=1, run_ms=1, worker="w")
    at = "2026-11-28T10:00:00Z"
    return TaskResult(task_id="t", metadata=metadata, submitted_at=at, started_at=at, ended_at=at, **given)

TEXT = "a b " * 100
FAILED = dict(status='error', error=TaskError(type='graph_error', message='no such city'))
terminal.write(eval(sys.argv[1]))
"""


def writing(value: str) -> list[str]:
    """Return the command of a program that writes an expression's value."""
    return [sys.executable, "-c", f"import sys\n{WRITE}", value]


@pytest.mark.parametrize("environment", [{}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1"}], ids=str)
def test_table_in_a_pipe_is_a_line_per_row_without_colours(environment):
    shown = in_pipe(writing("rows(3, 100)"), environment).splitlines()
    assert [line.split()[0] for line in shown] == ["task", "task-0", "task-1", "task-2"]
    assert [line.count("reason") for line in shown] == [0, 100, 100, 100]
    assert not COLOURS.search("".join(shown))


def test_result_in_a_pipe_keeps_the_strings_of_its_json():
    shown = in_pipe(writing("result(ended(status='success', result={'long': TEXT}))"))
    assert '  "long": "' + "a b " * 100 + '"\n' in shown
    shown = in_pipe(writing("result(ended(status='success', result={'answer': TEXT}))"))
    assert shown.startswith("a b " * 100 + "\n")


def test_result_on_a_terminal_gets_no_line_feed_into_the_strings_of_its_json():
    shown = in_terminal(writing("result(ended(status='success', result={'long': TEXT}))"), 80)
    assert '  "long": "' + "a b " * 100 + '"\n' in shown


@pytest.mark.parametrize("width", [80, 120])
def test_table_that_fits_is_a_table_with_its_numbers_to_the_right(width):
    first, *others = lines(in_terminal(writing("rows(3, 2)"), width))
    assert first == "task    tokens  none  why"
    assert others == [f"task-{n}  {10**n:>6}  -     reason reason" for n in range(3)]


def test_text_of_several_words_is_wrapped_between_them_where_it_must_be():
    shown = lines(in_terminal(writing("rows(1, 20)"), 80))
    assert max(map(len, shown)) <= 80
    assert len(shown) > 2
    assert sum(line.count("reason") for line in shown) == 20


def test_narrow_terminal_leaves_out_empty_columns_then_shows_a_block_per_row():
    assert lines(in_terminal(writing("rows(2, 2)"), 29)) == [
        "task    tokens  why", "task-0       1  reason reason", "task-1      10  reason reason"
    ]  # fmt: skip
    assert lines(in_terminal(writing("rows(2, 2)"), 24)) == [
        "task    task-0", "tokens  1", "why     reason reason", "",
        "task    task-1", "tokens  10", "why     reason reason",
    ]  # fmt: skip


def test_results_of_several_tasks_show_their_errors():
    value = writing("results([ended(**FAILED)])")
    assert "graph_error: no such city" in in_pipe(value)
    assert "graph_error: no such city" in in_terminal(value, 80)


def test_task_that_ended_without_a_result_shows_its_error_and_no_null():
    shown = in_pipe(writing("result(ended(**FAILED))"))
    assert "null" not in shown
    assert "error   graph_error: no such city" in lines(shown)

"""The command line of the producer: results on stdout, everything else on stderr, `--json` for machines."""

import json
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TextIO

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langgraph_rq.producer.cli import output
from langgraph_rq.producer.cli.audit import audit
from langgraph_rq.producer.cli.budget import budget
from langgraph_rq.producer.cli.dev import dev
from langgraph_rq.producer.cli.fleet import workers
from langgraph_rq.producer.cli.guards import breaker, usage
from langgraph_rq.producer.cli.reasons import shown_reasons
from langgraph_rq.producer.cli.scripts import load_scripts
from langgraph_rq.producer.cli.tasks import cancel, events, new_key, resume, serve
from langgraph_rq.producer.client.client import Client
from langgraph_rq.producer.dashboard.launcher import dashboard
from langgraph_rq.producer.doctor.command import doctor
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import (
    ForgedResultError,
    InvalidInputError,
    InvalidTaskError,
    LanggraphRqError,
    NotEndedError,
    RedisUnavailableError,
    UnknownBreakerError,
    UnknownTaskError,
    Violation,
    WaitTimeoutError,
)
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.settings import refuse_unknown_names
from langgraph_rq.shared.tasks import Priority, State, Task
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans

EXIT_CODES = """
\b
Exit codes:
  0  done
  1  the task (or one of them) did not succeed
  2  the input is wrong; nothing was queued
  3  Redis cannot be reached
  4  no such task
  5  it has not ended (in time)
"""

_EXIT_OF = {
    ForgedResultError: 1,
    RedisUnavailableError: 3,
    UnknownTaskError: 4,
    UnknownBreakerError: 4,
    NotEndedError: 5,
    WaitTimeoutError: 5,
}

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object per line.")


class _Group(click.Group):
    """Writes an error of this library as one line, and exits with its documented code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            refuse_unknown_names()
            return super().invoke(ctx)
        except LanggraphRqError as error:
            terminal.report(f"error: {error}")
            ctx.exit(next((code for kind, code in _EXIT_OF.items() if isinstance(error, kind)), 2))


@click.group(cls=_Group, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="langgraph-rq")
def main() -> None:
    """Submit tasks to a fleet of graph workers and read their results.

    \b
    Examples:
      langgraph-producer submit "What is a lease?" --wait
      langgraph-producer submit --graph triage --input '{"ticket": 7}' --user ann
      langgraph-producer submit --file tasks.jsonl --wait --json > results.jsonl
      langgraph-producer wait 7541897b-8dcb-4539-ad83-7db3f43609a3 --timeout 60

    Redis is found by REDIS_URL.
    """  # noqa: D301 - \b is the character that tells click to keep the lines


main.add_command(audit)
main.add_command(breaker)
main.add_command(budget)
main.add_command(usage)
for command in (workers, events, cancel, resume, serve, new_key, load_scripts, dashboard, doctor, dev):
    main.add_command(command)


@main.command(epilog=EXIT_CODES)
@click.argument("query", required=False)
@click.option("--input", "input_json", metavar="JSON", help='The graph\'s input, instead of QUERY: {"query": QUERY}.')
@click.option("--file", type=click.File("r"), help="Tasks as JSON lines, one object each; - is stdin.")
@click.option("--graph", help="The graph to run (default: assistant).")
@click.option("--id", "task_id", help="Your own id; the same task again under it runs once.")
@click.option("--user", "user_id", help="The user for whom it runs: limits and turns are per user.")
@click.option("--thread", "thread_id", help="The conversation that this continues.")
@click.option("--priority", type=click.Choice([p.value for p in Priority]), help="(default: default)")
@click.option("--deadline", "deadline_s", type=float, metavar="SECONDS", help="End it after this time (default: 300).")
@click.option("--wait", is_flag=True, help="Wait for the results and write them.")
@click.option(
    "--timeout", "timeout_s", type=float, metavar="SECONDS", help="With --wait: stop waiting after this time."
)
@json_option
def submit(
    query: str | None,
    input_json: str | None,
    file: TextIO | None,
    *,
    wait: bool,
    timeout_s: float | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Put one task on the queue, or many with --file."""
    given = {name: value for name, value in fields.items() if value is not None}
    # What the client logs as a warning is written below; without a handler Python would write it too.
    logging.getLogger("langgraph_rq").addHandler(logging.NullHandler())
    with exported_spans(is_required=False), Client() as client:
        if file:
            if query or input_json or given:
                raise click.UsageError("--file holds whole tasks: give their fields in the file")
            tasks, lines = _read_lines(client, file)
        else:
            tasks, lines = [client.parse({"input": _input(query, input_json), **given})], [None]
        try:
            receipts = list(_progress(client.submit_each(tasks), len(tasks), "queued"))
        except InvalidTaskError as error:
            raise InvalidTaskError(*error.violations, line=lines[error.position or 0]) from None
        for receipt, line in zip(receipts, lines, strict=True):
            for warning in receipt.warnings:
                place = f"line {line}: " if line else ""
                terminal.report(f"warning: {place}{warning}", "yellow")
        reasons = dict.fromkeys(receipt.reason for receipt in receipts if receipt.reason)
        for reason in reasons:
            terminal.report(f"warning: {reason}; tasks wait for one", "yellow")
        if wait:
            _write_results(client, [one.task_id for one in receipts], timeout_s, reasons, as_json=as_json)
        else:
            for receipt in receipts:
                terminal.write(asdict(receipt) if as_json else receipt.task_id)


@main.command(epilog=EXIT_CODES)
@click.argument("task_id")
@json_option
def status(task_id: str, *, as_json: bool) -> None:
    """Show where a task is: what it waits for, which node runs, why it failed, or what it asks.

    The node is known of a task that streams; its error and its questions as long as its result is kept.
    """
    with Client() as client:
        found = client.status(task_id)
        is_explained = not found.state.is_terminal or found.state in {State.SUCCESS, State.CANCELLED}
        ended = None if is_explained else client.result(task_id)
        if as_json:
            error = ended and ended.error and ended.error.model_dump(mode="json")
            terminal.write({**asdict(found), "error": error, "questions": output.questions(ended)})
        else:
            terminal.write(output.status(found, ended))


@main.command(epilog=EXIT_CODES)
@click.argument("task_id")
@json_option
def result(task_id: str, *, as_json: bool) -> None:
    """Write a task's result, without waiting for it."""
    with Client() as client:
        found = client.result(task_id)
        if found is None:
            state = client.status(task_id).state
            if state.is_terminal:
                raise UnknownTaskError(task_id, state)
            raise NotEndedError(task_id, state)
        _write_result(found, as_json=as_json)
        sys.exit(_exit_code([found]))


@main.command(epilog=EXIT_CODES)
@click.argument("task_ids", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop waiting after this time.")
@json_option
def wait(task_ids: tuple[str, ...], *, timeout_s: float | None, as_json: bool) -> None:
    """Wait until tasks have ended and write their results as they come."""
    with Client() as client:
        _write_results(client, task_ids, timeout_s, (), as_json=as_json)


def _input(query: str | None, input_json: str | None) -> Any:
    if (query is None) == (input_json is None):
        raise click.UsageError('give either QUERY or --input JSON, for example: submit "What is a lease?"')
    if input_json is None:
        return {"query": query}
    try:
        return json.loads(input_json)
    except ValueError as error:
        raise InvalidInputError(Violation("--input", "JSON", str(error))) from None


def _read_lines(client: Client, file: Iterable[str]) -> tuple[list[Task], list[int | None]]:
    """Read the tasks of a file, and the line of each."""
    tasks: list[Task] = []
    lines: list[int | None] = []
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                tasks.append(client.parse(line))
                lines.append(number)
            except InvalidTaskError as error:
                raise InvalidTaskError(*error.violations, line=number) from None
    if not tasks:
        raise InvalidInputError(Violation("--file", "tasks as JSON lines", "an empty file"))
    return tasks, lines


def _write_results(
    client: Client, task_ids: Sequence[str], timeout_s: float | None, reasons: Collection[str], *, as_json: bool
) -> None:
    results = []
    left = dict.fromkeys(task_ids)
    with shown_reasons(client, left, reasons):
        for one in _progress(client.wait_each(task_ids, timeout_s), len(task_ids), "ended"):
            left.pop(one.task_id, None)
            results.append(one)
            if as_json or len(task_ids) == 1:
                _write_result(one, as_json=as_json)
    if not as_json and len(task_ids) > 1:
        terminal.write(output.results(results))
    sys.exit(_exit_code(results))


def _write_result(one: TaskResult, *, as_json: bool) -> None:
    terminal.write(one.model_dump(mode="json", by_alias=True) if as_json else output.result(one))


def _exit_code(results: Iterable[TaskResult]) -> int:
    return int(any(one.status not in {State.SUCCESS, State.INTERRUPTED} for one in results))


def _progress(items: Iterator[Any], total: int, what: str) -> Iterator[Any]:
    """Pass items on, with a progress bar on a terminal when there are many."""
    if total == 1 or not terminal.errors.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal.errors) as progress:
        yield from progress.track(items, total=total, description=what)

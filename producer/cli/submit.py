"""The command that submits tasks."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO, Any

import click

from langgraph_rq.producer.cli.views.output import (
    EXIT_CODES,
    json_option,
    progress,
    refuse_timeout_alone,
    warn_without_worker,
    write_results,
    write_warnings_once,
)
from langgraph_rq.producer.client.client import Client
from langgraph_rq.producer.client.reading.lookup import Receipt
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import InvalidInputError, InvalidTaskError, LanggraphRqError, Violation
from langgraph_rq.shared.run_fields import Durability, StreamMode
from langgraph_rq.shared.tasks import Priority, Task
from langgraph_rq.shared.telemetry.tracer_provider import exported_spans


class _Json(click.ParamType[Any]):
    """A value in JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        del ctx
        return _read(param.opts[0] if param else "JSON", value)


JSON = _Json()


@click.command(epilog=EXIT_CODES)
@click.argument("query", required=False)
@click.option("--input", "input_json", metavar="JSON", help='The graph\'s input, instead of QUERY: {"query": QUERY}.')
@click.option("--file", type=click.File("rb"), help="Tasks as JSON lines, one object each; - is stdin.")
@click.option("--graph", help="The graph to run (default: assistant).")
@click.option("--id", "task_id", help="Your own id; the same task again under it runs once.")
@click.option("--user", "user_id", help="The user for whom it runs: limits and turns are per user.")
@click.option("--thread", "thread_id", help="The conversation that this continues.")
@click.option("--priority", type=click.Choice([p.value for p in Priority]), help="(default: default)")
@click.option("--deadline", "deadline_s", type=float, metavar="SECONDS", help="End it after this time (default: 300).")
@click.option("--max-attempts", type=int, metavar="N", help="Run a failing graph this often (default: 1).")
@click.option("--run-at", metavar="TIME", help="Start it then: ISO 8601 with the offset.")
@click.option("--delay", "delay_s", type=float, metavar="SECONDS", help="Start it so much later.")
@click.option("--metadata", type=JSON, metavar="JSON", help="Of the run, an object.")
@click.option("--context", type=JSON, metavar="JSON", help="LangGraph's context of the run, an object.")
@click.option(
    "--config",
    type=JSON,
    metavar="JSON",
    help="LangGraph's config: {configurable, tags, recursion_limit, run_name, metadata}.",
)
@click.option("--command", type=JSON, metavar="JSON", help="LangGraph's Command, no input: {resume, update, goto}.")
@click.option("--interrupt-before", multiple=True, metavar="NODE", help='Stop before this node; "*": before each.')
@click.option("--interrupt-after", multiple=True, metavar="NODE", help='Stop after this node; "*": after each.')
@click.option("--checkpoint", "checkpoint_id", metavar="ID", help="Go on from this checkpoint of the thread.")
@click.option("--durability", type=click.Choice([one.value for one in Durability]), help="(default: sync)")
@click.option(
    "--stream",
    multiple=True,
    type=click.Choice([mode.value for mode in StreamMode]),
    help="What its events tell; may be given several times.",
)
@click.option("--stream-subgraphs", is_flag=True, default=None, help="They tell of subgraphs too.")
@click.option("--wait", is_flag=True, help="Wait for the results and write them.")
@click.option(
    "--timeout", "timeout_s", type=float, metavar="SECONDS", help="With --wait: stop waiting after this time."
)
@json_option
def submit(
    query: str | None,
    input_json: str | None,
    file: IO[bytes] | None,
    *,
    wait: bool,
    timeout_s: float | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Put one task on the queue, or many with --file.

    \b
    Examples:
      langgraph-producer submit "What is a lease?" --wait
      langgraph-producer submit --graph triage --input '{"ticket": 7}' --user ann --interrupt-before send
      langgraph-producer submit --graph triage --thread t7 --input null
      langgraph-producer submit --graph triage --thread t7 --command '{"resume": "yes"}'
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    refuse_timeout_alone(timeout_s, wait=wait)
    given = {name: _value(name, value) for name, value in fields.items() if value not in (None, ())}
    write_warnings_once()
    with exported_spans(is_required=False), Client() as client:
        if file:
            if query or input_json or given:
                raise click.UsageError("--file holds whole tasks: give their fields in the file")
            tasks, lines = _read_lines(client, file)
        else:
            tasks, lines = [client.parse({**_input(query, input_json, given), **given})], [None]
        receipts: list[Receipt] = []
        try:
            for receipt in progress(client.submit_each(tasks), len(tasks), "queued"):
                receipts.append(receipt)  # noqa: PERF402 - those before a refusal are wanted
        except InvalidTaskError as error:
            raise InvalidTaskError(*error.violations, line=lines[error.position or 0]) from None
        except LanggraphRqError:
            _write(receipts, as_json=as_json)
            raise
        for receipt, line in zip(receipts, lines, strict=True):
            for warning in receipt.warnings:
                place = f"line {line}: " if line else ""
                terminal.report(f"warning: {place}{warning}", "yellow")
        reasons = dict.fromkeys(receipt.reason for receipt in receipts if receipt.reason)
        for reason in reasons:
            warn_without_worker(reason)
        if wait:
            write_results(client, [one.task_id for one in receipts], timeout_s, reasons, as_json=as_json)
        else:
            _write(receipts, as_json=as_json)


def _write(receipts: Iterable[Receipt], *, as_json: bool) -> None:
    for receipt in receipts:
        terminal.write(asdict(receipt) if as_json else receipt.task_id)


def _value(name: str, value: Any) -> Any:
    if name.startswith("interrupt_") and "*" in value:
        return "*"
    return value


def _input(query: str | None, input_json: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the task's input, of which a command has none."""
    if "command" in given and query is None and input_json is None:
        return {}
    if (query is None) == (input_json is None):
        raise click.UsageError('give either QUERY or --input JSON, for example: submit "What is a lease?"')
    return {"input": {"query": query} if input_json is None else _read("--input", input_json)}


def _read(option: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(Violation(option, "JSON", str(error))) from None


def _read_lines(client: Client, file: Iterable[bytes]) -> tuple[list[Task], list[int | None]]:
    """Read the tasks of a file, and the line of each. Editors of Windows begin a file with a byte order mark."""
    tasks: list[Task] = []
    lines: list[int | None] = []
    for number, line in enumerate(file, start=1):
        text = line.removeprefix(BOM_UTF8) if number == 1 else line
        if text.strip():
            try:
                tasks.append(client.parse(text))
                lines.append(number)
            except InvalidTaskError as error:
                raise InvalidTaskError(*error.violations, line=number) from None
    if not tasks:
        raise InvalidInputError(Violation("--file", "tasks as JSON lines", "an empty file"))
    return tasks, lines

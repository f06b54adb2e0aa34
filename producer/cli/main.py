"""The command line of the producer: results on stdout, everything else on stderr, `--json` for machines."""

import errno
import sys
from dataclasses import asdict
from typing import Any

import click

from langgraph_rq.producer.cli.audit import audit
from langgraph_rq.producer.cli.budget import budget
from langgraph_rq.producer.cli.connection import reported_silence
from langgraph_rq.producer.cli.dev import dev
from langgraph_rq.producer.cli.fleet import workers
from langgraph_rq.producer.cli.guards import UnknownBreakerError, breaker, usage
from langgraph_rq.producer.cli.listing import tasks
from langgraph_rq.producer.cli.scripts import load_scripts
from langgraph_rq.producer.cli.submit import submit
from langgraph_rq.producer.cli.tasks import cancel, continue_, events, new_key, resume, serve
from langgraph_rq.producer.cli.threads import threads
from langgraph_rq.producer.cli.views import output
from langgraph_rq.producer.client.client import Client
from langgraph_rq.producer.dashboard.launcher import dashboard
from langgraph_rq.producer.doctor.command import doctor
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import (
    ForgedResultError,
    LanggraphRqError,
    RedisUnavailableError,
    UnknownTaskError,
    WaitTimeoutError,
)
from langgraph_rq.shared.interrupts import INTERRUPTED
from langgraph_rq.shared.settings import refuse_unknown_names
from langgraph_rq.shared.tasks import State


class NotEndedError(LanggraphRqError):
    """The task has no result yet.

    Attributes:
        task_id: The task.
        state: Where it is.
    """

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(f"task {task_id} is {state}: it has no result yet; `wait` waits for it")
        self.task_id = task_id
        self.state = state


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_EXIT_OF = {
    ForgedResultError: 1,
    RedisUnavailableError: 3,
    UnknownTaskError: 4,
    UnknownBreakerError: 4,
    NotEndedError: 5,
    WaitTimeoutError: 5,
}


class _Group(click.Group):
    """Writes an error of this library as one line, and exits with its documented code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        terminal.accept_any_text()
        try:
            refuse_unknown_names()
            with reported_silence():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            terminal.report("")  # what the shell writes next does not go on behind ^C
            ctx.exit(INTERRUPTED)
        except LanggraphRqError as error:
            for text in (error, *getattr(error, "__notes__", ())):
                terminal.report(f"error: {text}")
            ctx.exit(next((code for kind, code in _EXIT_OF.items() if isinstance(error, kind)), 2))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            terminal.report(f"error: what was done cannot be written: {error.strerror}")
            ctx.exit(1)


@click.group(cls=_Group, epilog=output.EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
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
for command in (
    submit,
    tasks,
    workers,
    events,
    cancel,
    resume,
    continue_,
    serve,
    new_key,
    load_scripts,
    dashboard,
    doctor,
    threads,
    dev,
):
    main.add_command(command)


@main.command(epilog=output.EXIT_CODES)
@click.argument("task_id")
@output.json_option
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


@main.command(epilog=output.EXIT_CODES)
@click.argument("task_id")
@output.json_option
def result(task_id: str, *, as_json: bool) -> None:
    """Write a task's result, without waiting for it."""
    with Client() as client:
        found = client.result(task_id)
        if found is None:
            state = client.status(task_id).state
            if state.is_terminal:
                raise UnknownTaskError(task_id, state)
            raise NotEndedError(task_id, state)
        output.write_result(found, as_json=as_json)
        sys.exit(output.exit_code([found]))


@main.command(epilog=output.EXIT_CODES)
@click.argument("task_ids", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop waiting after this time.")
@output.json_option
def wait(task_ids: tuple[str, ...], *, timeout_s: float | None, as_json: bool) -> None:
    """Wait until tasks have ended and write their results as they come."""
    with Client() as client:
        output.write_results(client, task_ids, timeout_s, (), as_json=as_json)

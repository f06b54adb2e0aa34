"""The command that lists tasks."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from datetime import datetime

import click

from langgraph_rq.producer.cli.views import output
from langgraph_rq.producer.client.client import Client
from langgraph_rq.producer.client.reading.lookup import TaskStatus
from langgraph_rq.producer.client.reading.statuses import ListFields
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.tasks import State

_EXIT_CODES = """
\b
Exit codes:
  0  done
  2  the input is wrong
  3  Redis cannot be reached
"""
_PAGE = 100


class _Instant(click.ParamType[datetime]):
    """An instant in ISO 8601, with its offset."""

    name = "instant"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it."""
        del ctx
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None:
            wanted = "an instant in ISO 8601 with its offset, such as 2026-11-22T08:00:00Z"
            raise InvalidInputError(Violation(param.opts[0] if param else "TIME", wanted, value))
        return instant


@click.command(epilog=_EXIT_CODES)
@click.option("--state", type=click.Choice([state.value for state in State]), help="Only tasks in this state.")
@click.option("--graph", help="Only tasks of this graph.")
@click.option("--user", "user_id", help="Only tasks of this user; an empty one: those without user.")
@click.option("--since", type=_Instant(), metavar="TIME", help="Submitted then or later: ISO 8601 with the offset.")
@click.option("--until", type=_Instant(), metavar="TIME", help="Submitted then or earlier.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, metavar="N", help="The newest so many (default: %(default)s)."
)
@output.json_option
def tasks(
    *,
    state: str | None,
    graph: str | None,
    user_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List tasks, the newest first: those of the last day, and those of threads that are kept.

    \b
    Examples:
      langgraph-producer tasks --state error
      langgraph-producer tasks --since 2026-11-22T00:00:00Z --limit 5000 --json | jq -r .state | sort | uniq -c
      langgraph-producer tasks --state error --json | jq -r .task_id | xargs langgraph-producer continue
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    only: ListFields = {
        "state": State(state) if state else None,
        "graph": graph,
        "user_id": user_id,
        "since": since,
        "until": until,
    }
    with Client() as client, closing(_newest(client, limit, only)) as found:
        if as_json:
            for one in found:
                terminal.write(asdict(one))
        else:
            terminal.write(output.statuses(found))


def _newest(client: Client, limit: int, only: ListFields) -> Generator[TaskStatus]:
    before, left = 0, limit
    while left:
        page = client.tasks(before=before, limit=min(left, _PAGE), **only)
        yield from page.tasks
        left -= len(page.tasks)
        before = page.following
        if not before:
            return

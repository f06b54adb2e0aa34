"""The command that shows the fleet: its workers and its queues."""

from dataclasses import asdict
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from langgraph_rq.producer.cli.connection import connected_redis
from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.queue.fleet import Fleet, fleet_call
from langgraph_rq.shared.terminal import Column, Rows

_EXIT_CODES = """
\b
Exit codes:
  0  done
  3  Redis cannot be reached
  5  no worker is alive
"""
_COLOURS = {"busy": "cyan", "idle": "green"}
_COUNTS = tuple(Column(title, right=True) for title in ("in flight", "succeeded", "failed", "lease s"))


@click.command(epilog=_EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.pass_context
def workers(ctx: click.Context, *, as_json: bool) -> None:
    """Show the live workers and the queues. Unlike `rq info` this changes nothing, and reads no job.

    \b
    Examples:
      langgraph-producer workers
      langgraph-producer workers --json | jq .pending
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    with connected_redis() as redis:
        fleet = run_sync(redis, fleet_call())
    terminal.write(_json(fleet) if as_json else _show(fleet))
    if not fleet.workers:
        ctx.exit(5)


def _json(fleet: Fleet) -> dict[str, Any]:
    return {
        "workers": [asdict(worker) for worker in fleet.workers],
        "runnable": {queue.name: queue.runnable for queue in fleet.queues},
        "pending": fleet.pending,
        "delayed": fleet.delayed,
        "in_flight": fleet.in_flight,
    }


def _show(fleet: Fleet) -> RenderableType:
    workers = Rows("worker", "state", Column("queues", wraps=True), Column("graphs", wraps=True), *_COUNTS)
    for one in fleet.workers:
        workers.add_row(
            one.name,
            Text(one.state, style=_COLOURS.get(one.state, "yellow")),
            ", ".join(one.queues),
            ", ".join(one.graphs),
            str(one.in_flight),
            str(one.succeeded),
            str(one.failed),
            f"{one.lease_left_s:.1f}",
        )
    queues = Rows("queue", Column("runnable", right=True))
    for queue in fleet.queues:
        queues.add_row(queue.name, str(queue.runnable))
    totals = f"{fleet.pending} pending, {fleet.delayed} delayed, {fleet.in_flight} in flight"
    turns = Text("Runnable counts one task of each user; the others wait for their user's turn.", style="dim")
    shown = workers if fleet.workers else Text("no worker is alive", style="red")
    return Group(shown, Text(), queues, Text(), Text(totals, style="bold"), turns)

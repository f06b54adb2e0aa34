"""The `threads` commands: move threads between the ways to keep state."""

import asyncio
import sys
from typing import IO

import click

from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import MissingExtraError


@click.group()
def threads() -> None:
    """Move the checkpoints of threads from one LGRQ_STATE to another, as JSON lines.

    Both commands read the settings of a worker, and its langgraph.json, whose graphs name the types of their state.

    \b
    Example:
      LGRQ_STATE=redis langgraph-producer threads export > threads.jsonl
      LGRQ_STATE=postgres langgraph-producer threads import threads.jsonl
    """  # noqa: D301 - \b is the character that tells click to keep the lines


@threads.command(name="export")
@click.argument("thread_ids", nargs=-1)
def export_(thread_ids: tuple[str, ...]) -> None:
    """Write threads to stdout; all of them, if none is named. Stop the workers, or their threads change meanwhile."""
    try:
        from langgraph_rq.worker.threads.moving import export_threads  # noqa: PLC0415 - only this command needs it
    except ImportError as error:
        raise MissingExtraError("threads", "worker", error.name) from None
    written = asyncio.run(export_threads(sys.stdout.buffer, thread_ids))
    terminal.report(f"{written} threads")


@threads.command(name="import")
@click.argument("file", type=click.File("rb"), default="-")
def import_(file: IO[bytes]) -> None:
    """Write threads that `export` wrote, from FILE or stdin. A thread that has other checkpoints is refused."""
    try:
        from langgraph_rq.worker.threads.moving import import_threads  # noqa: PLC0415 - only this command needs it
    except ImportError as error:
        raise MissingExtraError("threads", "worker", error.name) from None
    written, known = asyncio.run(import_threads(file))
    terminal.report(f"{written} threads; {known} were there already")

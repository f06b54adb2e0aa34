"""The `threads` commands: move threads between the ways to keep state."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import click

from langgraph_rq.producer.cli.connection import explained
from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.errors import MissingExtraError
from langgraph_rq.shared.settings import RedisSettings, load

_EXIT_CODES = """
\b
Exit codes:
  0  done
  2  the input, a setting or a graph is wrong
  3  Redis cannot be reached
"""


@click.group()
def threads() -> None:
    """Move the checkpoints of threads from one LGRQ_STATE to another, as JSON lines.

    Both commands read the settings of a worker, and its langgraph.json, whose graphs name the types of their state.

    \b
    Example:
      LGRQ_STATE=redis langgraph-producer threads export > threads.jsonl
      LGRQ_STATE=postgres langgraph-producer threads import threads.jsonl
    """  # noqa: D301 - \b is the character that tells click to keep the lines


@threads.command(name="export", epilog=_EXIT_CODES)
@click.argument("thread_ids", nargs=-1)
def export_(thread_ids: tuple[str, ...]) -> None:
    """Write threads to stdout; all of them, if none is named. Stop the workers, or their threads change meanwhile."""
    try:
        from langgraph_rq.worker.threads.moving import export_threads  # noqa: PLC0415 - only this command needs it
    except ImportError as error:
        raise MissingExtraError("threads", "worker", error.name) from None
    with _answering_redis():
        written = asyncio.run(export_threads(sys.stdout.buffer, thread_ids))
    terminal.report(f"{written} threads")


@threads.command(name="import", epilog=_EXIT_CODES)
@click.argument("file", type=click.File("rb"), default="-")
def import_(file: IO[bytes]) -> None:
    """Write threads that `export` wrote, from FILE or stdin. A thread that has other checkpoints is refused."""
    try:
        from langgraph_rq.worker.threads.moving import import_threads  # noqa: PLC0415 - only this command needs it
    except ImportError as error:
        raise MissingExtraError("threads", "worker", error.name) from None
    with _answering_redis():
        written, known = asyncio.run(import_threads(file))
    terminal.report(f"{written} threads; {known} were there already")


@contextmanager
def _answering_redis() -> Iterator[None]:
    """Look first whether the Redis of checkpoints answers: reading and writing them waits for it, for minutes."""
    settings = load(RedisSettings)
    url = (settings.checkpoint_redis_url or settings.redis_url).get_secret_value()
    with explained(url):
        with open_sync(url, connections=1, timeout_s=settings.redis_timeout_s) as redis:
            redis.ping()
        yield

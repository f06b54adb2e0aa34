"""The command `langgraph-worker`: its options, and what is wrong with them."""

import gc
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import InvalidInputError, LanggraphRqError, MissingExtraError, Violation
from langgraph_rq.shared.settings import (
    ALL,
    QueueSettings,
    RedisSettings,
    WorkerSettings,
    effective,
    load,
    refuse_unknown_names,
)
from langgraph_rq.shared.terminal import Column

_LEAVE_S = 5.0
"""For threads of the graphs' own, and for what is called at exit."""

EXIT_CODES = """
\b
Exit codes:
  0  stopped by a signal, or no task left with --burst
  1  too many threads are stuck in nodes of ended tasks: start it again
  2  a setting or a graph is wrong, or Redis would lose tasks
  3  Redis cannot be reached
  130  ended by Ctrl-C before its graphs were loaded
"""


@click.command(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="langgraph-rq")
@click.option("--config", type=click.Path(path_type=Path), help="The langgraph.json that names the graphs.")
@click.option("--queues", metavar="NAMES", help="RQ queues, comma separated, most urgent first.")
@click.option("--concurrency", type=int, help="Tasks in flight per process (default: 100).")
@click.option("--processes", type=int, help="Worker processes, one per core (default: 1).")
@click.option("--burst", is_flag=True, help="Exit when the queues are empty.")
@click.option("--unsafe-redis", is_flag=True, default=None, help="Accept a Redis that may lose tasks.")
@click.option("--insecure-redis", is_flag=True, default=None, help="Accept plain redis:// to another host.")
@click.option(
    "--settings",
    "show_settings",
    is_flag=True,
    help="Print the settings in force with the source of each, and exit.",
)
def main(
    *,
    config: Path | None,
    queues: str | None,
    concurrency: int | None,
    processes: int | None,
    burst: bool,
    unsafe_redis: bool | None,
    insecure_redis: bool | None,
    show_settings: bool,
) -> None:
    """Run the graphs that langgraph.json names, task by task from Redis.

    \b
    Examples:
      langgraph-worker
      langgraph-worker --processes 2 --concurrency 200
      langgraph-worker --config examples/support_desk/langgraph.json --burst

    SIGTERM and SIGINT drain: running tasks may end, the rest return to the queue. A second signal returns all at once.
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    try:
        refuse_unknown_names()
        of_worker = {"config": config, "worker_concurrency": concurrency, "worker_processes": processes}
        of_redis = {"unsafe_redis": unsafe_redis, "insecure_redis": insecure_redis}
        worker, redis = load(WorkerSettings, **of_worker), load(RedisSettings, **of_redis)
        names = load(QueueSettings).queues() if queues is None else queue_names(queues)
        if show_settings:
            _print_settings(worker, redis, of_worker | of_redis)
            return
    except LanggraphRqError as error:
        terminal.report(f"error: {error}")
        sys.exit(2)
    # The libraries take seconds to import: errors above are reported before that, and the processes share the import.
    # Modules live as long as the process; collecting garbage among them would take a fifth of the start.
    gc.disable()
    try:
        from langgraph_rq.worker.boot import boot  # noqa: PLC0415
        from langgraph_rq.worker.fleet.processes import end_within  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langgraph_rq"):
            raise
        terminal.report(f"error: {MissingExtraError('langgraph-worker', 'worker', error.name)}")
        sys.exit(2)
    gc.freeze()
    gc.enable()
    code = boot(worker, redis, names, burst=burst)
    end_within(_LEAVE_S, code)
    sys.exit(code)


def queue_names(given: str) -> list[str]:
    """Read the names of --queues. Raises InvalidInputError."""
    names = [name.strip() for name in given.split(",")]
    if not all(names) or ":" in given:  # it separates a queue from the graph of its side queue
        raise InvalidInputError(Violation("--queues", "names without a colon, comma separated", repr(given)))
    return list(dict.fromkeys(names))


def _print_settings(worker: WorkerSettings, redis: RedisSettings, options: Mapping[str, Any]) -> None:
    given = {WorkerSettings: worker, RedisSettings: redis}
    overridden = [field for field, value in options.items() if value is not None]
    table = terminal.Rows("setting", Column("value", wraps=True), "from", Column("meaning", wraps=True))
    for one in effective((given.get(kind) or load(kind) for kind in ALL), overridden):
        table.add_row(one.variable, one.value or None, one.source, one.description)
    terminal.write(table)

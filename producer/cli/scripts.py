"""The command that loads the Lua scripts, for deployments whose producers start before the first worker."""

import click

from langgraph_rq.producer.cli.connection import connected_redis
from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.script_cache import every_script, load_missing

_EXIT_CODES = """
\b
Exit codes:
  0  done
  2  the user of REDIS_URL may not load scripts
  3  Redis cannot be reached
"""


@click.command("load-scripts", epilog=_EXIT_CODES)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def load_scripts(*, as_json: bool) -> None:
    """Load the Lua scripts of this version into Redis, as a worker does when it starts and after a restart of Redis.

    Producers may not load scripts. This needs the Redis user of a worker or an administrator.

    \b
    Examples:
      REDIS_URL=rediss://worker:...@redis:6379/0 langgraph-producer load-scripts
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    with connected_redis() as redis:
        loaded = load_missing(redis)
    known = len(every_script())
    terminal.write({"loaded": loaded, "scripts": known} if as_json else f"{loaded} of {known} scripts loaded")

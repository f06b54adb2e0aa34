"""`langgraph-producer doctor`: run the checklist and print it."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from redis.exceptions import RedisError
from rich.console import Group
from rich.text import Text

from langgraph_rq.producer.doctor import cost, infrastructure, monitoring, resilience, security
from langgraph_rq.producer.doctor.finding import Check, Finding, Level, failed
from langgraph_rq.producer.doctor.system import PRIVATE_CA, System, Urls
from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.connect_errors import explain_connect_error
from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.settings import RedisSettings, load, mask_url

CHECKLIST: dict[str, dict[str, Check]] = {
    "infrastructure": infrastructure.CHECKS,
    "monitoring": monitoring.CHECKS,
    "resilience": resilience.CHECKS,
    "cost": cost.CHECKS,
    "security": security.CHECKS,
}
_COLOURS = {Level.PASS: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_TALLY = {Level.PASS: "passed", Level.WARN: "to decide", Level.FAIL: "failed"}
_EXIT_CODES = """
\b
Exit codes, by the worst:
  0  everything passed
  1  warnings to decide about
  2  something is not fit for production, or a setting is wrong
"""


class _Url(click.ParamType[str]):
    """The URL of a web server, without a slash at its end."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        del ctx
        with suppress(ValueError):
            parts = urlsplit(value)
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
                return str(value).rstrip("/")
        option = param.opts[0] if param else "URL"
        raise InvalidInputError(Violation(option, "http://host:port or https://host:port", mask_url(value)))


_URL = _Url()


@click.command(epilog=_EXIT_CODES)
@click.option("--gateway", type=_URL, metavar="URL", help="The gateway, for example https://localhost:8080.")
@click.option("--prometheus", type=_URL, metavar="URL", help="Prometheus, for example http://localhost:9090.")
@click.option("--dashboard", type=_URL, metavar="URL", help="The dashboard, for example http://localhost:9181.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A private CA, as PEM.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object per check.")
@click.pass_context
def doctor(
    context: click.Context,
    gateway: str | None,
    prometheus: str | None,
    dashboard: str | None,
    ca: Path | None,
    as_json: bool,
) -> None:
    """Check the production checklist against the live system and its configuration.

    Settings, files and environment are those of where it runs: run it as the gateway runs, with the gateway's Redis
    user.

    \b
    Example:
      langgraph-producer doctor --gateway https://localhost:8080 --prometheus http://localhost:9090
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    redis = load(RedisSettings)
    url = redis.redis_url.get_secret_value()
    checkpoints = redis.checkpoint_redis_url.get_secret_value() if redis.checkpoint_redis_url else url
    urls = Urls(gateway, prometheus, dashboard)
    with (
        open_sync(url, connections=2, timeout_s=redis.redis_timeout_s) as client,
        open_sync(checkpoints, connections=2, timeout_s=redis.redis_timeout_s) as checkpoint_client,
    ):
        private_ca = ca or (PRIVATE_CA if PRIVATE_CA.exists() else None)
        system = System(os.environ, client, checkpoint_client, urls, private_ca)
        results = list(examine(system))
    if as_json:
        for area, name, finding in results:
            level = finding.level.name.lower()
            shown = {"area": area, "check": name, "level": level, "reason": finding.reason, "fix": finding.fix}
            terminal.write(shown)
    else:
        _show(results)
    context.exit(max(finding.level for _, _, finding in results))


def examine(system: System) -> Iterator[tuple[str, str, Finding]]:
    """Run every check; one that cannot ask is a fail that says whom it could not ask."""
    for area, checks in CHECKLIST.items():
        for name, check in checks.items():
            try:
                finding = check(system)
            except RedisError as error:
                reason = explain_connect_error(error, system.redis.redis_url.get_secret_value())
                finding = failed(f"Redis could not be asked: {reason}", "check REDIS_URL and that Redis runs")
            except OSError as error:
                finding = failed(f"could not be asked: {error}", "check the URL that was given, and that it runs")
            yield area, name, finding


def _show(results: list[tuple[str, str, Finding]]) -> None:
    table = terminal.Rows("level", "area", "check", terminal.Column("finding", wraps=True))
    for area, name, finding in results:
        colour = _COLOURS[finding.level]
        text = Text(finding.reason)
        if finding.fix:
            text.append(f"\n-> {finding.fix}", colour)
        table.add_row(Text(finding.level.name.lower(), colour), area, name, text)
    found = Counter(finding.level for _, _, finding in results)
    tally = Text(", ".join(f"{found[level]} {word}" for level, word in _TALLY.items()), "bold")
    terminal.write(Group(table, Text(), tally))

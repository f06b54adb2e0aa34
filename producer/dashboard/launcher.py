"""`langgraph-producer dashboard`: rq-dashboard, read-only, with a password. Importing this needs no web framework."""

import secrets

import click
from redis import Redis
from redis.exceptions import RedisError

from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.errors import MissingExtraError
from langgraph_rq.shared.settings import (
    DashboardSettings,
    RedactionSettings,
    RedisSettings,
    load,
    mask_url,
    refuse_taken_port,
)
from langgraph_rq.shared.telemetry.logs import configure

_THREADS = 8
_EXIT_CODES = """
\b
Exit codes:
  0  asked to end
  2  a setting is wrong, or the port is taken
"""


@click.command(epilog=_EXIT_CODES)
@click.option("--host", help="The address to listen on (default: 127.0.0.1).")
@click.option("--port", type=int, help="Its port (default: 9181).")
def dashboard(host: str | None, port: int | None) -> None:
    """Show queues, jobs and workers in a browser, read-only.

    The user is `admin`; the password comes from LGRQ_DASHBOARD_PASSWORD or its file, or is made up and printed once.
    """
    try:
        import waitress  # type: ignore[import-untyped]  # noqa: PLC0415

        from langgraph_rq.producer.dashboard.app import make_app  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("dashboard", "dashboard", error.name) from None
    redactor = load(RedactionSettings).redactor()
    configure(redactor=redactor)
    settings, redis = load(DashboardSettings, host=host, port=port), load(RedisSettings)
    refuse_taken_port(settings)
    url = redis.redis_url.get_secret_value()
    client = open_sync(url, connections=_THREADS, timeout_s=redis.redis_timeout_s)
    if _is_default_user(client):
        terminal.report(
            "warning: Redis' default user may write; give the dashboard the read-only user of its own", "yellow"
        )
    password = settings.password.get_secret_value() if settings.password else _made_up_password()
    terminal.report(f"dashboard on http://{settings.host}:{settings.port}/ for user admin", "")
    app = make_app(client, mask_url(url), password, redactor)
    waitress.serve(app, host=settings.host, port=settings.port, threads=_THREADS, ident=None, _quiet=True)


def _made_up_password() -> str:
    password = secrets.token_urlsafe(16)
    terminal.report(f"password for this run: {password}", "")
    return password


def _is_default_user(client: Redis) -> bool:
    try:
        return client.acl_whoami() in {"default", b"default"}
    except RedisError:
        return False

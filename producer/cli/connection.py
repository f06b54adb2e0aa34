"""The Redis connection of a command that reads, or changes one thing."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError, TimeoutError  # noqa: A004 - redis-py's own

from langgraph_rq.producer.client.transport.connection import unavailable
from langgraph_rq.shared import terminal
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.connect_errors import is_connect_error
from langgraph_rq.shared.connections.masked_url import mask_url
from langgraph_rq.shared.errors import InvalidInputError, LanggraphRqError, Violation
from langgraph_rq.shared.settings import RedisSettings, load

_ASKED_AFTER_S, _SILENT_S = 1.0, 1.0
"""A command that takes longer asks whether Redis answers, and how long an answer may take."""


@contextmanager
def connected_redis() -> Iterator[Redis]:
    """Open Redis. Raises RedisUnavailableError, and InvalidInputError where its user lacks a permission."""
    settings = load(RedisSettings)
    url = settings.redis_url.get_secret_value()
    with explained(url), open_sync(url, connections=1, timeout_s=settings.redis_timeout_s) as redis:
        yield redis


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise RedisUnavailableError for an outage, and InvalidInputError where the user of `url` lacks a permission."""
    try:
        yield
    except NoPermissionError as error:
        raise InvalidInputError(
            Violation("REDIS_URL", "a user that may do that, use the admin's REDIS_URL", str(error))
        ) from None
    except RedisError as error:
        if not is_connect_error(error):
            raise
        raise unavailable(url, error) from None


@contextmanager
def reported_silence() -> Iterator[None]:
    """Write on a terminal, while the block runs, that Redis takes connections and does not answer.

    A round trip to such a Redis is given up, and tried again, after seconds only.
    """
    is_over = Event()
    if terminal.errors.is_terminal:
        Thread(target=_report_silence, args=(is_over,), daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _report_silence(is_over: Event) -> None:
    if is_over.wait(_ASKED_AFTER_S):
        return
    with suppress(LanggraphRqError, RedisError, OSError):  # of which the command itself tells
        url = load(RedisSettings).redis_url.get_secret_value()
        with open_sync(url, connections=1, timeout_s=_SILENT_S) as redis:
            try:
                redis.ping()
            except TimeoutError:
                if not is_over.is_set():
                    terminal.report(f"waiting for Redis, which does not answer: {mask_url(url)}", "yellow")

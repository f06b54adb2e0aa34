"""The Redis connection of a command that reads, or changes one thing."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from langgraph_rq.producer.client.transport.connection import unavailable
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.connect_errors import is_connect_error
from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.settings import RedisSettings, load


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

"""The Redis connection of a command that reads, or changes one thing."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.producer.client.connection import unavailable
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.errors import InvalidInputError, Violation
from langgraph_rq.shared.settings import RedisSettings, load, mask_url


@contextmanager
def connected_redis() -> Iterator[Redis]:
    """Open Redis. Raises RedisUnavailableError, and InvalidInputError where its user lacks a permission."""
    settings = load(RedisSettings)
    url = settings.redis_url.get_secret_value()
    try:
        with open_sync(url, connections=1, timeout_s=settings.redis_timeout_s) as redis:
            yield redis
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise unavailable(mask_url(url), error) from None
    except NoPermissionError as error:
        raise InvalidInputError(
            Violation("REDIS_URL", "a user that may do that, use the admin's REDIS_URL", str(error))
        ) from None

"""Creation of the search indexes of checkpoints and store, safe when many workers boot at once."""

from collections.abc import Awaitable, Callable

from redisvl.exceptions import RedisSearchError

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.errors import LanggraphRqError

_INDEXES = 2
"""The most indexes that one `setup` creates, each of which another worker may create first."""


class SearchModuleError(LanggraphRqError):
    """This Redis has no search module; the message says what to use instead."""


async def create_indexes(setup: Callable[[], Awaitable[None]]) -> None:
    """Run a library's `setup`, and again after a race: it checks for an index and then creates it, not atomically.

    Raises:
        SearchModuleError: this Redis has no search module.
        redis.RedisError: this Redis does not answer.
    """
    for _lost_race in range(_INDEXES):
        try:
            return await _setup(setup)
        except RedisSearchError as error:
            if "already exists" not in str(error):
                raise
    return await _setup(setup)


async def _setup(setup: Callable[[], Awaitable[None]]) -> None:
    try:
        await setup()
    except RedisSearchError as error:
        if error.__cause__ and is_outage(error.__cause__):
            raise error.__cause__ from None
        if "unknown command" in str(error):
            raise SearchModuleError(
                "checkpoints need a Redis with the JSON and search modules, but this one has none: "
                "use Redis >= 8 or Redis Stack, or name another Redis in LGRQ_CHECKPOINT_REDIS_URL"
            ) from error
        raise

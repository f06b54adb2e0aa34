"""Create the search indexes of checkpoints and store, at the boot of many workers at once."""

from collections.abc import Awaitable, Callable

from redisvl.exceptions import RedisSearchError

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.errors import LanggraphRqError

_INDEXES = 2
"""At most so many does one `setup` create, each of which another worker may create first."""


class SearchModuleError(LanggraphRqError):
    """This Redis has no search module; the message says what to use instead."""


async def create_indexes(setup: Callable[[], Awaitable[None]]) -> None:
    """Run a library's `setup`, which looks whether an index exists before it creates it, and so can come too late.

    Raises:
        SearchModuleError: this Redis cannot keep checkpoints.
        redis.RedisError: this Redis does not answer.
    """
    for _another_worker_was_faster in range(_INDEXES):
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

"""What the tests of RQ's own clients share."""

from collections.abc import Iterator

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from tests.shared.queue.rq_clients import Tasks
from tests.shared.queue.test_task_queue import QUEUE


@pytest.fixture
async def queue(aredis) -> Tasks:
    queue = Tasks(aredis)
    await queue.join()
    return queue


@pytest.fixture
def rq(redis_url: str) -> Iterator[Queue]:
    """The queue as RQ's own clients use it."""
    with Redis.from_url(redis_url) as redis:
        yield Queue(QUEUE, connection=redis, serializer=JSONSerializer)

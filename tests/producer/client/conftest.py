import pytest

from tests.producer.client.played_worker import Worker


@pytest.fixture
def worker(redis_url):
    worker = Worker(redis_url)
    yield worker
    worker.redis.close()

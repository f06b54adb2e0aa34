"""The asynchronous client, for services that live in an event loop.

Example:
    async with AsyncClient("redis://localhost:6379/0") as client:
        task = await client.submit({"query": "What is a lease?"}, user_id="ann")
        print((await client.wait(task.task_id, timeout_s=60)).result["answer"])
"""

from types import TracebackType
from typing import Self

from langgraph_rq.producer.client.core import ClientCore
from langgraph_rq.producer.client.transport.transports import AsyncTransport
from langgraph_rq.shared.settings import QueueSettings, TaskSettings


class AsyncClient(ClientCore):
    """An asynchronous client of one event loop; any number of coroutines may share it.

    Args:
        redis_url: None reads REDIS_URL, as every part of the system does.
        queue, tasks: The settings that workers and producers must agree on; None reads them from the environment.
    """

    def __init__(
        self, redis_url: str | None = None, *, queue: QueueSettings | None = None, tasks: TaskSettings | None = None
    ) -> None:
        super().__init__(AsyncTransport, redis_url, queue, tasks)
        assert isinstance(self._transport, AsyncTransport)
        self.redis = self._transport.redis
        self.batcher = self._transport.batcher
        self.news = self._transport.news

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

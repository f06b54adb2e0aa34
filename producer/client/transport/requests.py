"""Ask a worker about threads or the store, and wait for its reply."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.shared.errors import (
    InvalidInputError,
    ThreadBusyError,
    ThreadRequestError,
    UnknownGraphError,
    Violation,
)
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS, GraphDescription
from langgraph_rq.shared.queue.events import BEGINNING
from langgraph_rq.shared.signing import TaskKeys
from langgraph_rq.shared.tasks import task_key, thread_key
from langgraph_rq.shared.threads.requests import (
    ANSWERED_WITHIN_S,
    ANY_WORKER,
    NOT_SERVED,
    READS,
    STORE,
    TOO_MANY,
    Operation,
    Refusal,
    Request,
    reply_key,
    request_call,
)

_LONGEST = 4_000_000
_REPEAT_AFTER_S = 2.0
"""Far longer than a read takes: the worker that took it has probably been killed."""


class Requests:
    """Asks for one tenant.

    Args:
        connection: To Redis.
        tenant: Who asks.
        keys: Sign requests; None: they are not signed.
    """

    def __init__(self, connection: Connection, tenant: str, keys: TaskKeys | None) -> None:
        self._connection = connection
        self._tenant = tenant
        self._keys = keys

    async def ask(self, operation: Operation, thread_id: str, graph: str, arguments: Mapping[str, Any]) -> Any:
        """Ask a worker that serves `graph` about a thread.

        Raises:
            UnknownGraphError: no live worker serves the graph.
            ThreadBusyError: a task of the thread has not ended.
            InvalidInputError: the request is not JSON, too long, or wrong for the graph.
            ThreadRequestError: no worker answered in time, or the graph failed; ask again.
            RedisUnavailableError: Redis cannot be reached.
        """
        reply = await self._reply(operation, thread_id, graph, {"thread_id": thread_id, **arguments})
        if "error" not in reply:
            return reply["ok"]
        if reply.get("kind") == Refusal.INVALID:
            raise InvalidInputError(Violation("thread", "what the graph can read", reply["error"]))
        if reply.get("kind") == Refusal.BUSY:
            raise ThreadBusyError(thread_id)
        raise ThreadRequestError(reply["error"])

    async def ask_store(self, operation: Operation, arguments: Mapping[str, Any]) -> Any:
        """Ask any worker about the store. Raises as `ask`, for the store."""
        reply = await self._reply(operation, STORE, ANY_WORKER, arguments)
        if "error" not in reply:
            return reply["ok"]
        if reply.get("kind") == Refusal.INVALID:
            raise InvalidInputError(Violation("store", "what the store takes", reply["error"]))
        raise ThreadRequestError(reply["error"])

    async def description(self, graph: str) -> GraphDescription | None:
        """Read how workers have described a graph; None: none has in the last day."""
        (record,) = await self._connection.read(lambda pipeline: pipeline.hget(GRAPH_DESCRIPTIONS, graph))
        return GraphDescription.read(record) if isinstance(record, bytes) else None

    async def _reply(self, operation: Operation, place: str, graph: str, arguments: Mapping[str, Any]) -> Any:
        thread = thread_key(place, self._tenant)
        request = Request(task_key(uuid4().hex, self._tenant), operation, graph, thread, arguments)
        try:
            text = request.text()
        except (TypeError, ValueError) as error:
            raise InvalidInputError(Violation("value", "what JSON can hold", str(error))) from None
        if len(text) > _LONGEST:
            raise InvalidInputError(Violation("values", f"a request of at most {_LONGEST:,} bytes", f"{len(text):,}"))
        if self._keys:
            text = self._keys.sign_request(thread, self._tenant, text)
        (sent,) = await self._connection.run([request_call(request, text)])
        if isinstance(sent, Exception):
            raise sent
        if sent[0] == NOT_SERVED and graph == ANY_WORKER:
            raise ThreadRequestError("no worker is there")
        if sent[0] == NOT_SERVED:
            raise UnknownGraphError(graph, sent[1].decode() or "none")
        if sent[0] == TOO_MANY:
            raise ThreadRequestError("too many requests wait for the workers")
        return await self._await_reply(request, text)

    async def _await_reply(self, request: Request, text: bytes) -> Any:
        """Wait for the reply; a read without one is sent once more, for its worker may have been killed.

        Only if no other request waits, since busy workers need no more work; and no write, which might be done twice.
        """
        places, left_s = {reply_key(request.id): BEGINNING}, ANSWERED_WITHIN_S
        if request.operation in READS and left_s > _REPEAT_AFTER_S:
            for replies in (await self._connection.transport.news(places, _REPEAT_AFTER_S, is_drained=True)).values():
                return replies[-1].data
            await self._connection.run([request_call(request, text, most_waiting=1)])
            left_s -= _REPEAT_AFTER_S
        for replies in (await self._connection.transport.news(places, left_s, is_drained=True)).values():
            return replies[-1].data
        raise ThreadRequestError(f"no worker answered within {ANSWERED_WITHIN_S:g} s")

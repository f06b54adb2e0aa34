"""Answer requests about threads and the store, in a lane of their own beside the task slots."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from langgraph.errors import InvalidUpdateError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from langgraph_rq.shared.connections.background import BackgroundTasks, end
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.queue.answers import whole_number
from langgraph_rq.shared.queue.events import EventType
from langgraph_rq.shared.signing import SignatureError
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.shared.telemetry.outage import Outage
from langgraph_rq.shared.threads.requests import (
    ANSWERED_WITHIN_S,
    ANY_WORKER,
    REPLY_KEPT_MS,
    Refusal,
    Request,
    reply_key,
    requests_key,
)
from langgraph_rq.worker.guards.refusals import Refusal as GuardRefusal
from langgraph_rq.worker.outputs.json_values import encode
from langgraph_rq.worker.state.outages import CheckpointFencedError
from langgraph_rq.worker.state.store.reading import StoreScanError
from langgraph_rq.worker.task.run_context import RunContext
from langgraph_rq.worker.threads.masking import mask
from langgraph_rq.worker.threads.store_operations import run_on_store
from langgraph_rq.worker.threads.thread_operations import BusyError, ThreadOperations

LANE = 8
"""Requests that are answered at once."""
MOST_REPLY_BYTES = 64_000_000
"""A reply lies in Redis as a whole until its client has read it."""
_BLOCK_S = 5
_OUTAGE_WAIT_S = 0.25
_ERROR_CHARS = 2_000
_CLOCK_S = 5.0

_log = get_logger(__name__)


class ThreadRequests:
    """Answers the requests of all graphs that the worker serves, and those that any worker answers.

    Args:
        context: The graphs, and what they share.
        blocking: A client with a connection to spare.
        outage: Told when Redis does not answer.
    """

    def __init__(self, context: RunContext, blocking: Redis, outage: Outage) -> None:
        self._context = context
        self._operations = ThreadOperations(context)
        self._blocking = KeptConnection(blocking)
        self._outage = outage
        self._keys = [requests_key(graph) for graph in (*context.graphs, ANY_WORKER)]
        self._free = asyncio.Semaphore(LANE)
        self._answering = BackgroundTasks()
        self._clock_until = self._redis_ahead_s = 0.0

    async def serve(self) -> None:
        """Take requests and answer them, until cancelled."""
        self._taking = self._answering.start(self._take_and_answer())
        try:
            while not (taking := self._taking).done():
                await asyncio.wait([taking])
            taking.result()
        finally:
            await end([self._taking])

    async def close(self) -> None:
        """Wait until the requests that were taken are answered; those that take too long are cancelled."""
        await self._answering.close(ANSWERED_WITHIN_S)

    async def _take_and_answer(self) -> None:
        """Take one request and answer it, in one task: another one would wait for its turn in a busy loop."""
        async with self._free:
            while (taken := await self._take()) is None:
                pass
            self._taking = self._answering.start(self._take_and_answer())
            await self._answer(taken)

    async def _take(self) -> bytes | None:
        try:
            (found,) = await self._blocking.exchange([("BLPOP", *self._keys, _BLOCK_S)])
            if isinstance(found, Exception):
                raise found
        except (RedisError, OSError) as error:
            log = _log.debug if self._outage.covers("requests", error) else _log.warning
            log("requests.not_read", error=str(error))
            if isinstance(error, ResponseError):
                await self._delete_odd()
            await asyncio.sleep(_OUTAGE_WAIT_S)
            return None
        self._outage.passed("requests")
        return found[1] if found else None

    async def _delete_odd(self) -> None:
        """Delete lists of requests that another program has given another type: no request could get in or out."""
        with suppress(RedisError, OSError):
            for key in self._keys:
                if await self._context.redis.type(key) not in {b"list", b"none"}:
                    await self._context.redis.delete(key)

    async def _answer(self, taken: bytes) -> None:
        asked_ms, _, taken = taken.partition(b" ")
        text, _, signature = taken.rpartition(b" ") if self._context.keys else (taken, b"", b"")
        try:
            request = Request.read(text)
            if self._context.keys:
                self._context.keys.check_request(request.thread, text, signature)
        except (ValueError, SignatureError) as error:
            _log.warning("request.refused", reason=str(error)[:_ERROR_CHARS])
            return
        with suppress(RedisError, OSError):  # the client times out and retries
            if await self._age_s(asked_ms) > ANSWERED_WITHIN_S:
                return  # the client has timed out, and may have retried since
            reply = await self._reply(request)
            async with self._context.redis.pipeline(transaction=True) as pipeline:
                pipeline.xadd(reply_key(request.id), {"type": EventType.END, "data": reply})
                pipeline.pexpire(reply_key(request.id), REPLY_KEPT_MS)
                await pipeline.execute()

    async def _age_s(self, asked_ms: bytes) -> float:
        """Return how old a request is by Redis' clock, which is read again every few seconds only."""
        if time.monotonic() > self._clock_until:
            seconds, microseconds = await self._context.redis.time()
            self._clock_until = time.monotonic() + _CLOCK_S
            self._redis_ahead_s = seconds + microseconds / 1e6 - time.monotonic()
        return time.monotonic() + self._redis_ahead_s - whole_number(asked_ms) / 1000

    async def _reply(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                return _ok(encode(await self._value(request), request.operation).text)
        except TimeoutError:
            return self._refuse(Refusal.FAILED, f"the worker was not done after {ANSWERED_WITHIN_S:g} s")
        except (BusyError, CheckpointFencedError) as error:
            return self._refuse(Refusal.BUSY, str(error))
        except (ValueError, LookupError, InvalidUpdateError, StoreScanError) as error:  # such as a checkpoint's form
            return self._refuse(Refusal.INVALID, f"{type(error).__name__}: {error}")
        except (Exception, GuardRefusal) as error:  # such as a spent budget, where the store embeds
            _log.warning("request.failed", operation=request.operation, graph=request.graph, error=str(error))
            return self._refuse(Refusal.FAILED, f"{type(error).__name__}: {error}")

    async def _value(self, request: Request) -> Any:
        if request.graph == ANY_WORKER:
            value = await run_on_store(self._context.store, self._context.guards, request)
        else:
            value = await self._operations.run(request)
        redaction = self._context.redaction
        return await mask(redaction, value, request.operation) if redaction else value

    def _refuse(self, kind: Refusal, reason: str) -> bytes:
        """Write why there is no answer; the message of a graph may quote what it was given."""
        redaction = self._context.redaction
        shown = redaction.redactor.redact_beginning(reason, _ERROR_CHARS) if redaction else reason[:_ERROR_CHARS]
        return encode({"error": shown, "kind": kind}, "error").text


def _ok(text: bytes) -> bytes:
    if len(text) > MOST_REPLY_BYTES:
        raise ValueError(f"expected a reply of at most {MOST_REPLY_BYTES:,} bytes, got {len(text):,}: ask for less")
    return b'{"ok":%b}' % text

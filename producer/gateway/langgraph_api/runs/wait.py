"""Wait for the end of a run, and answer what it returned."""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.types import Receive, Scope, Send

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.objects import failure
from langgraph_rq.producer.gateway.langgraph_api.runs.stream import DISCONNECTED, HEARTBEAT_S
from langgraph_rq.producer.gateway.streamed import Streamed, piece
from langgraph_rq.shared.errors import LanggraphRqError, RedisUnavailableError, WaitTimeoutError
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import State

_OUTAGE_PAUSE_S = 0.5


class AwaitedRun(Streamed):
    """What a run returned, as JSON, with blanks before it while it runs.

    Args:
        caller: Whose run it is.
        run_id: The run.
        headers: Of the answer.
        cancels: Whether the run is cancelled when its client goes away before its end.
        is_new: Whether it was submitted just now.
    """

    media_type = "application/json"

    def __init__(
        self, caller: Caller, run_id: str, headers: Mapping[str, str], *, cancels: bool, is_new: bool = False
    ) -> None:
        super().__init__(headers)
        self._caller = caller
        self._run_id = run_id
        self._stops_run = cancels
        self._is_new = is_new
        self._has_ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._stops_run and self.is_given_up and not self._has_ended:
                # The gateway may be stopping: what is awaited here has to outlive the request.
                await asyncio.shield(self._cancel())

    async def write(self, send: Send) -> None:
        """Send blanks, then the document. Without one the client joins elsewhere: this gateway stops."""
        document = await self._document(send)
        self._has_ended = True
        await send(piece(document, is_last=True))

    async def _document(self, send: Send) -> bytes:
        client, is_new = self._caller.client, self._is_new
        while True:
            asked_at = time.monotonic()
            try:
                return _encode(_shown(read_json(await client.wait_json(self._run_id, HEARTBEAT_S, is_new=is_new))))
            except WaitTimeoutError:
                if time.monotonic() - asked_at < HEARTBEAT_S / 2:  # the gateway stops
                    return b""
            except RedisUnavailableError:  # the run goes on: an error would let its client start another
                if client.is_ending:
                    return b""
                await asyncio.sleep(_OUTAGE_PAUSE_S)
            except LanggraphRqError as error:
                return _encode({"__error__": {"error": type(error).__name__, "message": str(error)}})
            is_new = False
            await send(piece(b" "))

    async def _cancel(self) -> None:
        with suppress(LanggraphRqError):
            await self._caller.client.cancel(self._run_id, reason=DISCONNECTED)


def _shown(result: Any) -> Any:
    if error := failure(result):
        return {"__error__": error}
    if result["status"] == State.CANCELLED:
        return result.get("result") or {}
    return result.get("result")


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

"""Answers that are sent while they are made."""

import asyncio

import pytest

from langgraph_rq.producer.gateway.streamed import Streamed, piece


class Endless(Streamed):
    """Ignores the first cancellation, as `asyncio.wait_for` of Python 3.11 may."""

    def __init__(self) -> None:
        super().__init__({})
        self.has_begun = asyncio.Event()

    async def write(self, send) -> None:
        await send(piece(b"first"))
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()


async def ignore(_message) -> None:
    pass


async def never():
    await asyncio.Event().wait()


async def test_answer_ends_when_its_client_goes_away_though_a_cancellation_is_lost():
    answer = Endless()

    async def receive():
        await answer.has_begun.wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(20):
        await answer({}, receive, ignore)
    assert asyncio.current_task().cancelling() == 0


async def test_answer_is_cancelled_with_its_server_while_its_client_is_there():
    answer = Endless()
    sending = asyncio.create_task(answer({}, never, ignore))
    await answer.has_begun.wait()
    for _ in range(2):
        sending.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await sending

"""Answers that are sent while they are made."""

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from langgraph_rq import AsyncClient
from langgraph_rq.producer.gateway.langgraph_api.runs.stream import open_stream
from langgraph_rq.producer.gateway.langgraph_api.runs.wait import AwaitedRun
from langgraph_rq.producer.gateway.streamed import Streamed, piece
from langgraph_rq.shared.tasks import State


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


@pytest.fixture
async def client(redis_url):
    async with AsyncClient(redis_url) as client:
        yield client


@pytest.mark.parametrize(("cancels", "state"), [(False, State.PENDING), (True, State.CANCELLED)])
async def test_run_is_cancelled_with_its_wait_only_where_that_was_asked_for(client, cancels, state):
    task_id = (await client.submit({"n": 1})).task_id
    begun = asyncio.Event()

    async def receive():
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(_message):
        begun.set()

    await AwaitedRun(SimpleNamespace(client=client), task_id, {}, cancels=cancels)({}, receive, send)
    assert (await client.status(task_id)).state is state


@pytest.mark.parametrize("kind", ["wait", "stream"])
async def test_run_goes_on_when_the_gateway_ends_before_a_client_that_would_cancel_it(client, kind):
    task_id = (await client.submit({"n": 1})).task_id
    caller, begun = SimpleNamespace(client=client), asyncio.Event()
    if kind == "wait":
        answer = AwaitedRun(caller, task_id, {}, cancels=True)
    else:
        answer = await open_stream(caller, task_id, None, ["values"], ExitStack(), cancels=True)

    async def send(_message):
        begun.set()
        await never()  # its client reads slowly

    sending = asyncio.create_task(answer({}, never, send))
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert (await client.status(task_id)).state is State.PENDING

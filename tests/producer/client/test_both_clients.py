"""The two clients are one: the same methods, and the same answers where they once differed."""

import inspect
import typing
from contextlib import asynccontextmanager

import pytest

from langgraph_rq import AsyncClient, Client, InvalidTaskError, State, TaskConflictError, UnknownTaskError
from langgraph_rq.producer.client.core import ClientCore
from langgraph_rq.shared.errors import InvalidInputError
from langgraph_rq.shared.tasks import Task


def public_methods(kind: type) -> list[str]:
    return sorted(name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_")


METHODS = public_methods(ClientCore)
SYNC_NAMES = {"aclose": "close"}


class InThread:
    """`Client` with the face of `AsyncClient`, so that one test asks both."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name):
        method = getattr(self._client, name)

        async def call(*args, **options):
            return method(*args, **options)

        async def each(*args, **options):
            for item in method(*args, **options):
                yield item

        return each if inspect.isasyncgenfunction(getattr(AsyncClient, name)) else call


@asynccontextmanager
async def sync_client(redis_url):
    with Client(redis_url) as client:
        yield InThread(client)


@pytest.fixture(params=[AsyncClient, sync_client], ids=["async", "sync"])
async def client(redis_url, request):
    async with request.param(redis_url) as client:
        yield client


def returned(method) -> str:
    """The type that a caller ends up with, whether the method is awaited or not."""
    name = str(typing.get_type_hints(method, include_extras=True)["return"])
    return name.replace("AsyncGenerator", "Iterator").replace(", None]", "]").replace("typing.Self", "Self")


def test_both_clients_have_the_same_public_methods():
    sync, asynchronous = (
        [name for name, _ in inspect.getmembers(one, inspect.isfunction)] for one in (Client, AsyncClient)
    )
    assert {name for name in sync if name[0] != "_"} == {SYNC_NAMES.get(name, name) for name in METHODS}
    assert {name for name in asynchronous if name[0] != "_"} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_has_the_same_signature_in_both_clients(name):
    sync, asynchronous = getattr(Client, SYNC_NAMES.get(name, name)), getattr(AsyncClient, name)
    assert inspect.signature(sync).parameters == inspect.signature(asynchronous).parameters
    assert returned(sync) == returned(asynchronous)


def test_both_clients_are_made_with_the_same_arguments():
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters


async def events(client, task_id: str) -> list:
    return [event async for event in client.events(task_id)]


async def test_events_of_a_task_that_is_not_known_are_an_error(client):
    with pytest.raises(UnknownTaskError, match="nope"):
        await events(client, "nope")


@pytest.mark.parametrize("method", ["status", "result", "wait", "cancel", "resume", "continue_"])
async def test_receipt_in_the_place_of_its_id_is_an_error(client, method):
    receipt = await client.submit({"n": 1})
    with pytest.raises(InvalidInputError, match=r"^task_id: expected text, such as receipt.task_id, got: Receipt$"):
        await getattr(client, method)(receipt, *(("yes",) if method == "resume" else ()))


async def test_id_in_the_place_of_ids_is_an_error(client):
    with pytest.raises(InvalidInputError, match=r"^task_ids: expected a list of ids, got: "):
        [result async for result in client.wait_each("t-1", 1)]


async def test_events_that_are_forgotten_are_answered_with_the_end_alone(client, redis_client):
    task = await client.submit({})
    await client.cancel(task.task_id)
    redis_client.delete(f"agent:events:{task.task_id}")
    (end,) = await events(client, task.task_id)
    assert (end.type, end.data) == ("end", {"state": "cancelled"})
    assert await client.follow(task.task_id, end.id, 1.0) is None


async def test_events_of_a_task_that_has_ended_are_those_that_were_written(client):
    task = await client.submit({})
    await client.cancel(task.task_id)
    assert [event.type for event in await events(client, task.task_id)] == ["end"]


async def test_result_is_read_as_it_stands_in_redis(client, redis_client):
    task = await client.submit({})
    assert await client.result_json(task.task_id) is None
    await client.cancel(task.task_id)
    stored = redis_client.get(f"agent:result:{task.task_id}").encode()
    assert await client.result_json(task.task_id) == await client.wait_json(task.task_id) == stored


async def test_many_tasks_are_waited_for_in_the_order_of_their_ends(client):
    ids = [receipt.task_id for receipt in await client.submit_many([{"input": {}}] * 150)]
    for id_ in ids:
        await client.cancel(id_)
    assert {result.task_id async for result in client.wait_each(ids, 20)} == set(ids)


async def test_all_tasks_that_were_queued_are_known_before_the_refusal_of_one_of_their_batch(client):
    await client.submit({"n": 1}, task_id="taken")
    tasks = [Task(task_id=id_, input={}) for id_ in ("first", "taken", "last")]
    receipts = client.submit_each(tasks)
    known = [(await anext(receipts)).task_id for _ in range(2)]
    with pytest.raises(TaskConflictError, match="taken"):
        await anext(receipts)
    queued = [(await client.status(id_)).state for id_ in ("first", "last")]
    assert (known, queued) == (["first", "last"], [State.PENDING, State.PENDING])


async def test_client_that_ends_its_waits_gives_up_before_the_time(client):
    task = await client.submit({})
    await client.end_waits() if isinstance(client, InThread) else client.end_waits()
    with pytest.raises(TimeoutError, match=task.task_id):
        await client.wait(task.task_id)
    assert await events(client, task.task_id) == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_tenant_of_a_client_is_that_of_its_tasks(redis_url, kind):
    acme = kind(redis_url).for_tenant("acme")
    assert acme.parse({"input": {}}).tenant == "acme"
    assert acme.parse('{"input": {}}').tenant == "acme"
    assert acme.parse({"input": {}, "tenant": "acme"}).tenant == "acme"
    await acme.aclose() if kind is AsyncClient else acme.close()


@pytest.mark.parametrize("document", [{"input": {}, "tenant": "other"}, '{"input": {}, "tenant": "other"}'])
@pytest.mark.parametrize("tenant", ["acme", "default"])
def test_task_of_another_tenant_is_refused(redis_url, document, tenant):
    with Client(redis_url) as client, pytest.raises(InvalidTaskError, match=f"tenant: expected {tenant}, .*: other"):
        client.for_tenant(tenant).parse(document)


def test_tasks_of_a_tenant_are_looked_up_waited_for_and_followed_by_its_client_alone(redis_url):
    with Client(redis_url) as client:
        acme = client.for_tenant("acme")
        task_id = acme.submit({}).task_id
        assert acme.cancel(task_id) is State.CANCELLED
        assert acme.wait(task_id, 20).status is State.CANCELLED
        assert [event.type for event in acme.events(task_id)] == ["end"]
        with pytest.raises(UnknownTaskError):
            client.status(task_id)

"""`guarded(name)`: tools and other services behind the breaker, on real Redis."""

import asyncio
import json
import threading
import time
from dataclasses import replace

import httpx
import pytest
from langchain_core.tools import tool
from langgraph.errors import GraphInterrupt
from requests import HTTPError
from requests import Response as RequestsResponse

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, BreakerState
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.worker.calls.tools import guarded
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded, ProviderUnavailableError, TaskGone, ToolError
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from tests.breakers import Breakers
from tests.fleet import PRICING
from tests.waiting import until

LIMITS = BreakerLimits(failure_threshold=2, window_s=0)


@pytest.fixture
async def guards(aredis, redis_url):
    guards = Guards(aredis, redis_url, LIMITS, BudgetLimits(), PRICING)
    yield guards
    await guards.aclose()


@pytest.fixture
def breaker(aredis):
    return Breakers(aredis, LIMITS)


async def status_of(breaker, name="search"):
    found = [one for one in await breaker.states() if one.name == name]
    return found[0] if found else None


def http_error(status, headers=None):
    request = httpx.Request("GET", "http://search.example")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, headers=headers or {}))


def requests_error(status):
    response = RequestsResponse()
    response.status_code = status
    return HTTPError(response=response)


def failing(error, guards, **options):
    @guarded("search", guards=guards, **options)
    async def search():
        raise error

    return search


SERVICE_FAILED = [
    http_error(503),
    http_error(408),
    requests_error(500),
    httpx.ConnectError("no route"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut"),
    ConnectionResetError("reset"),
    TimeoutError(),
    json.JSONDecodeError("no JSON", "<html>", 0),
]


@pytest.mark.parametrize("error", SERVICE_FAILED, ids=repr)
async def test_failure_of_the_service_counts_and_becomes_a_tool_error(error, guards, breaker):
    with pytest.raises(ToolError, match=r"^search: ") as caught:
        await failing(error, guards)()
    assert caught.value.__cause__ is error
    assert (await status_of(breaker)).failures == 1


NOT_THE_SERVICE = [
    http_error(404),
    requests_error(422),
    ValueError("no such city"),
    ToolError("another service"),
    ProviderUnavailableError("no model", was_called=True),
    BudgetExceeded("spent"),
    GraphInterrupt(),
]


@pytest.mark.parametrize("error", NOT_THE_SERVICE, ids=repr)
async def test_what_is_no_failure_of_the_service_comes_through_and_does_not_count(error, guards, breaker):
    with pytest.raises(type(error)) as caught:
        await failing(error, guards)()
    assert caught.value is error
    assert (await status_of(breaker)).failures == 0


async def test_exceptions_of_the_service_can_be_named(guards, breaker):
    class SearchDownError(Exception):
        pass

    with pytest.raises(ToolError, match="search: SearchDownError"):
        await failing(SearchDownError(), guards, failures=(SearchDownError,))()
    assert (await status_of(breaker)).failures == 1


async def test_open_breaker_refuses_with_the_time_to_ask_again(guards, breaker):
    search = failing(http_error(500), guards)
    for _ in range(LIMITS.failure_threshold):
        with pytest.raises(ToolError):
            await search()
    with pytest.raises(ToolError, match="the circuit breaker is open") as caught:
        await search()
    assert 0 < caught.value.retry_after_s <= 33
    assert (await status_of(breaker)).state is BreakerState.OPEN


async def test_pause_that_the_service_asks_for_holds_for_everybody(guards, breaker):
    with pytest.raises(ToolError) as caught:
        await failing(http_error(429, {"retry-after": "60"}), guards)()
    assert caught.value.retry_after_s == 60
    with pytest.raises(ToolError, match="its rate limit is reached"):
        await failing(http_error(500), guards)()
    assert (await status_of(breaker)).state is BreakerState.CLOSED


async def test_half_open_one_caller_goes_through_and_its_success_lets_all_through(guards, breaker):
    limits = replace(LIMITS, open_s=0.01, jitter=0)
    for _ in range(LIMITS.failure_threshold):
        with pytest.raises(ToolError):
            await failing(http_error(500), guards, limits=limits)()
    await until(lambda: _is_over(breaker))
    started, go_on = [], asyncio.Event()

    @guarded("search", guards=guards, limits=limits)
    async def search(n):
        started.append(n)
        await go_on.wait()
        return n

    calls = [asyncio.create_task(search(n)) for n in range(20)]
    refused = await until(lambda: [call for call in calls if call.done()] if sum(c.done() for c in calls) == 19 else [])
    assert all(isinstance(call.exception(), ToolError) for call in refused)
    go_on.set()
    (probe,) = set(calls) - set(refused)
    assert [await probe] == started
    assert (await status_of(breaker)).state is BreakerState.CLOSED


async def _is_over(breaker):
    return (await status_of(breaker)).open_ends_at < time.time() * 1000


async def test_slow_service_is_given_up_and_counts(guards, breaker):
    @guarded("search", timeout_s=0.05, guards=guards)
    async def search():
        await asyncio.Event().wait()

    with pytest.raises(ToolError, match="search: TimeoutError"):
        await search()
    assert (await status_of(breaker)).failures == 1


async def test_slow_sync_service_is_given_up_too(guards, breaker):
    go_on = threading.Event()

    @guarded("search", timeout_s=0.05, guards=guards)
    def search():
        go_on.wait()

    with pytest.raises(ToolError, match="search: TimeoutError"):
        await asyncio.to_thread(search)
    go_on.set()
    assert (await status_of(breaker)).failures == 1


async def test_sync_function_may_be_called_in_a_thread_and_inside_a_running_loop(guards):
    @guarded("search", guards=guards)
    def search(query, *, limit=1):
        return f"{limit} x {query}"

    assert search("cats") == "1 x cats"
    assert await asyncio.to_thread(search, "cats", limit=2) == "2 x cats"


async def test_async_function_runs_in_the_loop_of_its_caller(guards):
    @guarded("search", guards=guards)
    async def search():
        return asyncio.get_running_loop()

    async def in_a_loop_of_its_own():
        return await search() is asyncio.get_running_loop()

    assert await in_a_loop_of_its_own()
    assert await asyncio.to_thread(asyncio.run, in_a_loop_of_its_own())


async def test_cancelled_call_frees_its_place_without_a_vote(guards, breaker):
    started = asyncio.Event()

    @guarded("search", guards=guards)
    async def search():
        started.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(search())
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await status_of(breaker)).failures == 0


async def test_task_that_is_not_ours_any_more_calls_nothing(guards):
    called = []
    current_task.set(TaskGuard(guards, "gone", 1, "me", deadline_at=time.monotonic() + 60))
    with pytest.raises(TaskGone):
        guarded("search")(lambda: called.append(1))()
    assert called == []


async def test_outside_of_a_worker_the_function_runs_as_it_is():
    @guarded("search", timeout_s=0.001)
    def search(query):
        return f"found {query}"

    @guarded("search")
    async def search_async(query):
        return f"found {query}"

    assert search("roses") == await search_async("roses") == "found roses"

    @guarded("search")
    def fails():
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):  # and no ToolError
        fails()


def test_it_belongs_below_the_tool_decorator():
    @tool
    def search(query: str) -> str:
        """Find pages."""
        return query

    with pytest.raises(TypeError, match="expected a function, got the tool 'search': put @guarded below @tool"):
        guarded("search")(search)


@pytest.mark.parametrize("options", [{"name": ""}, {"name": "search", "timeout_s": 0}])
def test_what_cannot_work_is_refused_at_once(options):
    with pytest.raises(ValueError, match=r"^expected "):
        guarded(**options)


def test_generators_are_refused():
    def pages():
        yield 1

    with pytest.raises(TypeError, match="expected a function that returns its answer at once"):
        guarded("search")(pages)


async def test_tool_keeps_its_name_and_arguments(guards):
    @tool
    @guarded("search", guards=guards)
    async def search(query: str, limit: int = 3) -> str:
        """Find pages."""
        return f"{limit} x {query}"

    assert (search.name, search.description, set(search.args)) == ("search", "Find pages.", {"query", "limit"})
    assert await search.ainvoke({"query": "cats"}) == "3 x cats"

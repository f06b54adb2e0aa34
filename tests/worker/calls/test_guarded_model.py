"""What a guarded model does around the call: limits, retries, fallbacks, streams that break, and the bill."""

import asyncio
import math
import time

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from pydantic import BaseModel

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, BreakerState, Outcome
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Hold
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.inner_model import OUTPUT_TOKENS as DEFAULT_OUTPUT_TOKENS
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards import call_threads
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded, ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from tests.breakers import Breakers
from tests.budget import Budget
from tests.fleet import PRICING
from tests.model_calls import OUTPUT_TOKENS, billed, books, chat_models
from tests.waiting import until

QUESTION = "What is 2 + 2?"
BREAKER = "openai/gpt-4o-mini"
ONCE = CallLimits(attempts=1)


INPUT_TOKENS = 5 + 8 + 4
"""The estimate of the question: a third of its bytes, and what a provider adds to a call and to a message."""
WORST_TOKENS = len(QUESTION) + 32 + 16 + OUTPUT_TOKENS
HOLDS = pytest.mark.parametrize("hold", Hold)


def is_charged_for_a_part(hold, used):
    """Whether a stream that was broken off was charged for its question and a part of the answer."""
    return used == WORST_TOKENS if hold is Hold.WORST else INPUT_TOKENS <= used < INPUT_TOKENS + OUTPUT_TOKENS


async def estimated_calls(aredis):
    (model,) = (await Budget(aredis).usage()).models
    return model.estimated_calls


@pytest.fixture
async def guards(redis_url):
    async with open_async(redis_url) as redis:
        guards = Guards(redis, redis_url, BreakerLimits(), BudgetLimits(), PRICING)
        yield guards
        await guards.aclose()


async def ainvoke(model):
    return (await model.ainvoke(QUESTION)).text


async def invoke(model):
    return (await asyncio.to_thread(model.invoke, QUESTION)).text


async def astream(model):
    return "".join([chunk.text async for chunk in model.astream(QUESTION)])


async def stream(model):
    return await asyncio.to_thread(lambda: "".join(chunk.text for chunk in model.stream(QUESTION)))


async def other_loop(model):
    return await asyncio.to_thread(lambda: asyncio.run(ainvoke(model)))


WAYS = pytest.mark.parametrize("call", [ainvoke, invoke, astream, stream])


@WAYS
async def test_call_is_booked_as_it_is_billed(call, guards, aredis, llm, chat):
    assert "You asked" in await call(guarded_chat_model(chat(), guards=guards))
    assert await books(aredis) == (billed(llm), 0)


@WAYS
async def test_spent_budget_refuses_without_a_call(call, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(daily_tokens=10)
    with pytest.raises(BudgetExceeded):
        await call(guarded_chat_model(chat(), [chat("gpt-4o")], guards=guards))
    assert llm.calls() == []
    assert await books(aredis) == (0, 0)


@WAYS
async def test_failed_call_is_tried_again(call, guards, aredis, llm, chat):
    llm.set_faults([{"fault": "500", "times": 2}])
    assert "You asked" in await call(guarded_chat_model(chat(), guards=guards))
    assert len(llm.calls()) == 3
    assert await books(aredis) == (billed(llm), 0)


@WAYS
async def test_fallback_answers_when_the_first_model_keeps_failing(call, guards, aredis, llm, chat):
    llm.set_faults([{"fault": "503", "model": "gpt-4o"}])
    task = TaskGuard(guards)
    current_task.set(task)
    model = guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")], limits=CallLimits(attempts=2), guards=guards)
    assert "You asked" in await call(model)
    assert [one["model"] for one in llm.calls()] == ["gpt-4o", "gpt-4o", "gpt-4o-mini"]
    assert (task.model, task.fallback_used) == ("gpt-4o-mini", True)
    assert await books(aredis) == (billed(llm), 0)


@WAYS
async def test_error_says_what_failed_when_no_model_answers(call, guards, aredis, llm, chat):
    llm.set_faults([{"fault": "503"}])
    model = guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")], limits=ONCE, guards=guards)
    with pytest.raises(ProviderUnavailableError, match=r"gpt-4o: .*HTTP 503.*gpt-4o-mini: .*HTTP 503") as caught:
        await call(model)
    assert caught.value.was_called
    assert await books(aredis) == (0, 0)


@WAYS
async def test_open_breaker_sends_the_call_to_the_fallback(call, guards, aredis, llm, chat):
    await Breakers(aredis, BreakerLimits()).report("openai/gpt-4o", "t", 0, Outcome.QUOTA)
    assert "You asked" in await call(guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")], guards=guards))
    assert [one["model"] for one in llm.calls()] == ["gpt-4o-mini"]


async def test_request_that_the_provider_refuses_is_not_tried_elsewhere(guards, aredis, llm, chat):
    llm.set_faults([{"fault": "context_length"}])
    with pytest.raises(Exception, match="maximum context length"):
        await guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")], guards=guards).ainvoke(QUESTION)
    assert len(llm.calls()) == 1
    assert await books(aredis) == (0, 0)


async def test_pause_that_the_provider_asks_for_holds_for_everybody_and_is_waited_for(guards, aredis, llm, chat):
    llm.set_faults([{"fault": "429", "times": 1, "retry_after_s": 0.7}])
    started = time.monotonic()
    await guarded_chat_model(chat(), guards=guards).ainvoke(QUESTION)
    assert time.monotonic() - started >= 0.7
    assert len(llm.calls()) == 2


@WAYS
async def test_rate_limit_uses_up_no_attempt(call, guards, llm, chat):
    llm.set_faults([{"fault": "429", "times": 2, "retry_after_s": 0.1}])
    assert "You asked" in await call(guarded_chat_model(chat(), limits=ONCE, guards=guards))
    assert len(llm.calls()) == 3


async def test_fallback_answers_when_the_first_model_stays_limited(guards, llm, chat):
    llm.set_faults([{"fault": "429", "model": "gpt-4o", "retry_after_s": 0.5}])
    model = guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")], guards=guards)
    assert "You asked" in await ainvoke(model)


async def test_pause_that_is_too_long_is_not_waited_for(guards, aredis, llm, chat):
    llm.set_faults([{"fault": "429", "retry_after_s": 60}])
    model = guarded_chat_model(chat(), guards=guards)
    with pytest.raises(ProviderUnavailableError) as caught:
        await model.ainvoke(QUESTION)
    assert (caught.value.retry_after_s, caught.value.was_called) == (60, False)
    with pytest.raises(ProviderUnavailableError, match="rate limit"):
        await model.ainvoke(QUESTION)
    assert len(llm.calls()) == 1


@WAYS
@HOLDS
async def test_hanging_call_is_given_up_and_charged(hold, call, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(hold=hold)
    llm.set_faults([{"fault": "hang"}])
    model = guarded_chat_model(chat(timeout=1), limits=CallLimits(attempts=1, timeout_s=0.3), guards=guards)
    with pytest.raises(ProviderUnavailableError, match="Timeout"):
        await call(model)
    assert await books(aredis) == (INPUT_TOKENS if hold is Hold.ESTIMATE else WORST_TOKENS, 0)
    assert await estimated_calls(aredis) == 1


async def test_call_that_took_all_its_time_goes_to_the_next_model_at_once(guards, llm, chat):
    llm.set_faults([{"fault": "hang", "model": "gpt-4o"}])
    limits = CallLimits(attempts=3, timeout_s=0.3)
    model = guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")], limits=limits, guards=guards)
    assert "You asked" in (await model.ainvoke(QUESTION)).text
    assert [one["model"] for one in llm.calls()] == ["gpt-4o", "gpt-4o-mini"]


@WAYS
@pytest.mark.parametrize("fault", ["cut", "malformed", "reset"])
@HOLDS
async def test_broken_answer_is_charged_as_it_may_be_billed(hold, fault, call, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(hold=hold)
    llm.set_faults([{"fault": fault}])
    with pytest.raises(Exception):  # noqa: B017, PT011 - a stream that has begun raises the SDK's own
        await call(guarded_chat_model(chat(), limits=ONCE, guards=guards))
    used, held = await books(aredis)
    if hold is Hold.ESTIMATE:
        assert INPUT_TOKENS <= used <= 3 * max(billed(llm), INPUT_TOKENS)
    else:
        assert billed(llm) <= used
    assert held == 0
    assert await estimated_calls(aredis) == 1
    (status,) = await Breakers(aredis, BreakerLimits()).states()
    assert status.failures == 1


@HOLDS
async def test_stream_that_is_broken_off_is_settled_and_its_connection_closed(hold, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(hold=hold)
    llm.set_latency(2)
    try:
        async for _chunk in guarded_chat_model(chat(), guards=guards).astream(QUESTION):
            break
        await until(lambda: [one["outcome"] for one in llm.calls()] == ["left"], timeout_s=20)

        async def is_settled():
            used, held = await books(aredis)
            return is_charged_for_a_part(hold, used) and held == 0

        await until(is_settled)
    finally:
        llm.set_latency(0)


@HOLDS
async def test_sync_stream_that_is_broken_off_is_settled(hold, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(hold=hold)

    def read_one():
        for _chunk in guarded_chat_model(chat(), guards=guards).stream(QUESTION):
            return

    await asyncio.to_thread(read_one)
    used, held = await books(aredis)
    assert is_charged_for_a_part(hold, used)
    assert held == 0


@WAYS
async def test_stream_without_usage_is_charged_by_its_text(call, guards, aredis, llm, chat):
    model = guarded_chat_model(chat(), guards=guards)
    model._inner[0].model.stream_usage = False
    answer = await call(model)
    if call in {astream, stream}:
        assert await books(aredis) == (INPUT_TOKENS + math.ceil(len(answer.encode()) / 3), 0)
        assert await estimated_calls(aredis) == 1
    else:
        assert await books(aredis) == (billed(llm), 0)


@HOLDS
async def test_cancelled_call_is_settled(hold, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(hold=hold)
    llm.set_faults([{"fault": "hang"}])
    calling = asyncio.create_task(guarded_chat_model(chat(), guards=guards).ainvoke(QUESTION))
    await until(llm.calls)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    async def is_settled():
        return await books(aredis) == (INPUT_TOKENS if hold is Hold.ESTIMATE else WORST_TOKENS, 0)

    await until(is_settled)
    assert (await Breakers(aredis, BreakerLimits()).states())[0].failures == 0


async def test_streams_of_other_loops_are_read_in_one(guards, aredis, llm, chat):
    model = guarded_chat_model(chat(), guards=guards)
    for _ in range(2):
        assert "You asked" in await asyncio.to_thread(lambda: asyncio.run(astream(model)))
    assert await books(aredis) == (billed(llm), 0)


async def held_during(guards, aredis, llm, model, **parameters):
    """What a call holds while it is made."""
    llm.set_faults([{"fault": "hang"}])
    calling = asyncio.create_task(guarded_chat_model(model, guards=guards).ainvoke("hi", **parameters))
    await until(llm.calls)
    _, held = await books(aredis)
    calling.cancel()
    await asyncio.wait([calling])
    return held


@pytest.mark.parametrize(
    ("fields", "parameters", "output_tokens"),
    [
        ({"max_tokens": 30}, {}, 30),
        ({"max_tokens": None}, {}, DEFAULT_OUTPUT_TOKENS),
        ({"max_tokens": 30}, {"max_tokens": 40}, 40),
        ({"max_tokens": 30}, {"max_completion_tokens": 50}, 50),
        ({"max_tokens": 30, "n": 3}, {}, 90),
        ({"max_tokens": 30}, {"n": 3}, 90),
    ],
)
async def test_output_limit_is_held_however_it_is_given(fields, parameters, output_tokens, guards, aredis, llm, chat):
    held = await held_during(guards, aredis, llm, chat(**fields), **parameters)
    assert output_tokens < held < output_tokens + 100


async def test_model_without_an_output_limit_gets_one(guards, aredis, chat, server):
    with OfflineLLM(keep_prompts=True) as other:
        async with chat_models(other.url) as chat_here:
            model = guarded_chat_model(chat_here(max_tokens=None), guards=guards)
            assert model._inner[0].limited({}, None) == {"max_tokens": DEFAULT_OUTPUT_TOKENS}
            await model.ainvoke(QUESTION)


@pytest.mark.parametrize(("hold", "tokens"), [(Hold.ESTIMATE, 100 / 3), (Hold.WORST, 100)])
async def test_tools_and_schemas_count_as_input(hold, tokens, guards, aredis, llm, chat):
    guards.budget = BudgetLimits(hold=hold)

    @tool
    def search(query: str) -> str:
        """Search. The description is long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx."""
        return query

    plain = await held_during(guards, aredis, llm, chat())
    llm.clear()
    await aredis.flushall()
    tools = chat().bind_tools([search]).kwargs["tools"]
    assert await held_during(guards, aredis, llm, chat(), tools=tools) > plain + tokens


async def test_model_chosen_for_one_call_is_the_one_that_is_priced_and_broken(guards, aredis, llm, chat):
    task = TaskGuard(guards)
    current_task.set(task)
    llm.set_faults([{"fault": "500", "model": "gpt-4o"}])
    model = guarded_chat_model(chat("gpt-4o-mini"), [chat("gpt-4.1-mini")], limits=ONCE, guards=guards)
    await model.ainvoke(QUESTION, model="gpt-4o")
    assert [one["model"] for one in llm.calls()] == ["gpt-4o", "gpt-4.1-mini"]
    assert task.model == "gpt-4.1-mini"
    names = {status.name for status in await Breakers(aredis, BreakerLimits()).states()}
    assert names == {"openai/gpt-4o", "openai/gpt-4.1-mini"}


async def test_structured_output_is_guarded(guards, aredis, llm, chat):
    class Sum(BaseModel):
        total: int

    model = guarded_chat_model(chat(), guards=guards).with_structured_output(Sum)
    assert isinstance(await model.ainvoke("The sum is 4"), Sum)
    assert await books(aredis) == (billed(llm), 0)


class Parrot(BaseChatModel):
    """A model that can neither stream nor be awaited."""

    @property
    def _llm_type(self):
        return "parrot"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("You asked"))])


@pytest.mark.parametrize("call", [ainvoke, invoke, astream, stream, other_loop])
async def test_model_that_cannot_stream_answers_in_one_piece(call, guards, aredis):
    assert await call(guarded_chat_model(Parrot(), guards=guards)) == "You asked"
    assert await books(aredis) == (INPUT_TOKENS + 3, 0)  # by the question and the nine bytes of the answer
    assert await estimated_calls(aredis) == 1


async def test_model_that_reports_no_usage_is_charged_at_its_worst_if_that_is_held(guards, aredis):
    guards.budget = BudgetLimits(hold=Hold.WORST)
    await ainvoke(guarded_chat_model(Parrot(), guards=guards))
    assert await books(aredis) == (len(QUESTION) + 32 + 16 + DEFAULT_OUTPUT_TOKENS, 0)


async def test_fallback_of_another_class_is_refused(guards, chat):
    with pytest.raises(TypeError, match="expected fallbacks to be ChatOpenAI too, got: Parrot"):
        guarded_chat_model(chat(), [Parrot()], guards=guards)


async def test_call_outside_of_a_task_needs_guards(chat):
    with pytest.raises(RuntimeError, match="give guards=Guards"):
        await guarded_chat_model(chat()).ainvoke(QUESTION)


async def test_retries_of_the_sdk_are_off(guards, aredis, llm, chat):
    llm.set_faults([{"fault": "500"}])
    for call in (ainvoke, invoke, astream, stream):
        llm.clear()
        llm.set_faults([{"fault": "500"}])
        with pytest.raises(ProviderUnavailableError):
            await call(guarded_chat_model(chat(max_retries=5), limits=ONCE, guards=guards))
        assert len(llm.calls()) == 1
        await Breakers(aredis, BreakerLimits()).reset(BREAKER)


@pytest.mark.parametrize("call", [astream, stream])
async def test_stream_of_a_probe_closes_the_breaker_at_its_first_chunk(call, guards, aredis, llm, chat):
    guards.breaker = BreakerLimits(open_s=0.001, max_open_s=0.001)
    breaker = Breakers(aredis, guards.breaker)
    await breaker.report(BREAKER, "t", 0, Outcome.QUOTA)
    llm.set_latency(2)
    streaming = asyncio.create_task(call(guarded_chat_model(chat(), guards=guards)))

    async def is_closed():
        return (await breaker.states())[0].state is BreakerState.CLOSED

    await until(is_closed)
    assert not streaming.done()
    assert "You asked" in await streaming
    assert await books(aredis) == (billed(llm), 0)


@pytest.fixture
async def two_threads(monkeypatch, aredis, redis_url):
    """Guards with places for two sync calls at a time."""
    monkeypatch.setattr(call_threads, "PLACES", 2)
    guards = Guards(aredis, redis_url, BreakerLimits(), BudgetLimits(), PRICING)
    yield guards
    await guards.aclose()


@pytest.mark.parametrize("call", [invoke, stream])
async def test_clock_of_a_sync_call_starts_when_a_thread_is_free(call, two_threads, aredis, llm, chat):
    llm.set_latency(0.8)
    model = guarded_chat_model(chat(), limits=CallLimits(attempts=1, timeout_s=2.0), guards=two_threads)
    answers = await asyncio.gather(*[call(model) for _ in range(6)])
    assert all("You asked" in answer for answer in answers)
    assert (await Breakers(aredis, BreakerLimits()).states())[0].failures == 0
    assert await books(aredis) == (billed(llm), 0)


async def test_sync_call_that_waits_for_a_thread_holds_nothing(two_threads, aredis, llm, chat):
    llm.set_latency(0.4)
    calls = [asyncio.create_task(invoke(guarded_chat_model(chat(), guards=two_threads))) for _ in range(6)]
    held = set()
    while not all(one.done() for one in calls):
        held.add((await books(aredis))[1])
        await asyncio.sleep(0.01)
    await asyncio.gather(*calls)
    each = min(held - {0})
    assert max(held) <= 2 * each


async def test_abandoned_thread_keeps_its_place_until_it_returns(two_threads, aredis, llm, chat):
    llm.set_faults([{"fault": "latency", "latency_s": 1.5, "times": 2}])
    slow = guarded_chat_model(chat(), limits=CallLimits(attempts=1, timeout_s=0.3), guards=two_threads)
    failed = await asyncio.gather(invoke(slow), invoke(slow), return_exceptions=True)
    assert all(isinstance(error, ProviderUnavailableError) for error in failed)
    assert "You asked" in await invoke(guarded_chat_model(chat(), guards=two_threads))
    started = [one["started_monotonic_s"] for one in llm.calls()]
    assert started[2] - started[0] > 1


async def test_call_that_finds_no_free_connection_is_not_a_failure_of_the_provider(guards, aredis, llm, chat):
    llm.set_latency(1.5)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as http:
        first, second = (
            guarded_chat_model(
                chat(http_async_client=http), limits=CallLimits(attempts=1, timeout_s=timeout_s), guards=guards
            )
            for timeout_s in (60, 0.5)
        )
        answered = asyncio.create_task(ainvoke(first))
        await until(llm.calls)
        with pytest.raises(ProviderUnavailableError) as caught:
            await ainvoke(second)
        assert not caught.value.was_called
        await answered
    assert len(llm.calls()) == 1
    assert (await Breakers(aredis, BreakerLimits()).states())[0].window_failed == 0
    assert await books(aredis) == (billed(llm), 0)

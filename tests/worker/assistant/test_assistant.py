"""The built-in assistant against a real HTTP server: which model answers, and what happens when none does."""

import asyncio
import json
import time

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.budget.token_budget import Amount, BudgetLimits, Charge, Payer, Request
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.waits import wake_call
from langgraph_rq.shared.settings import AssistantSettings
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.assistant.graph import QUERY_BYTES, Assistant, build, graph, read_complexity
from langgraph_rq.worker.assistant.models import guard_models
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded, ProviderUnavailableError, TaskGone
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.task.result import usage_of
from tests.breakers import Breakers
from tests.budget import Budget
from tests.fleet import PRICING, ended, worker
from tests.waiting import until

SIMPLE = "What is 2 + 2?"
MEDIUM = "Why is the sky blue?"
COMPLEX = "Design a queue that survives crashes, compare three architectures and their trade-offs step by step."


@pytest.fixture(scope="module")
def server():
    with OfflineLLM(keep_prompts=True) as server:
        yield server


@pytest.fixture
def llm(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "offline")
    monkeypatch.setenv("LGRQ_CALL_ATTEMPTS", "1")
    server.admin.clear()
    return server.admin


@pytest.fixture
async def guards(aredis, redis_url):
    guards = Guards(aredis, redis_url, BreakerLimits(), BudgetLimits(), PRICING)
    yield guards
    await guards.aclose()


async def ask(query, guards, saver=None, deadline_s=None):
    """Ask as one run of a task; answers the output with the metadata that its result would have."""
    task = TaskGuard(guards, deadline_at=deadline_s and time.monotonic() + deadline_s)
    token = current_task.set(task)
    try:
        async with graph() as builder:
            config = {"configurable": {"thread_id": "t"}}
            output = await builder.compile(checkpointer=saver).ainvoke({"query": query}, config)
    finally:
        current_task.reset(token)
    return output | {"metadata": usage_of(task) | output["task_metadata"]}


def done(output, *keys):
    return tuple(output["metadata"][key] for key in keys)


def called(llm):
    return [call["model"] for call in llm.calls()]


@pytest.mark.parametrize(
    ("query", "complexity", "model"),
    [(SIMPLE, "simple", "gpt-4o-mini"), (MEDIUM, "medium", "gpt-4o"), (COMPLEX, "complex", "gpt-4o")],
)
async def test_model_is_chosen_by_complexity(query, complexity, model, llm, guards):
    output = await ask(query, guards)
    assert done(output, "complexity", "model") == (complexity, model)
    assert query in output["answer"]
    assert called(llm) == ["gpt-4o-mini", model]


async def test_models_are_settable(llm, guards, monkeypatch):
    for kind in ("classifier", "simple", "medium", "complex"):
        monkeypatch.setenv(f"LGRQ_ASSISTANT_{kind.upper()}_MODEL", f"{kind}-model")
    assert done(await ask(COMPLEX, guards), "model") == ("complex-model",)
    assert called(llm) == ["classifier-model", "complex-model"]


async def test_output_says_only_what_the_guards_cannot_know(llm, guards):
    output = await ask(MEDIUM, guards)
    assert output["task_metadata"] == {"complexity": "medium", "downgraded": False}
    used = llm.stats()
    assert done(output, "input_tokens", "output_tokens") == (
        sum(used["input_tokens"].values()),
        sum(used["output_tokens"].values()),
    )


@pytest.mark.parametrize(
    ("said", "complexity"),
    [
        ("simple", "simple"),
        ("  Complex.\n", "complex"),
        ("The label is MEDIUM", "medium"),
        ("simple or complex", "medium"),
        ("oversimplecomplexity", "medium"),
        ("", "medium"),
        (None, "medium"),
    ],
)
def test_what_the_classifier_says_counts_only_when_it_is_one_label(said, complexity):
    assert read_complexity(said) == complexity


@pytest.mark.parametrize("fault", ["500", "malformed", "cut", "content_filter"])
async def test_classification_is_tried_once_and_counts_as_medium_when_it_fails(fault, llm, guards, monkeypatch):
    monkeypatch.setenv("LGRQ_CALL_ATTEMPTS", "3")
    llm.set_faults([{"fault": fault, "match": "Classify"}])
    output = await ask(SIMPLE, guards)
    assert done(output, "complexity", "model") == ("medium", "gpt-4o")
    assert output["task_error"] is None
    assert called(llm) == ["gpt-4o-mini", "gpt-4o"]


async def test_answer_is_tried_again_before_another_model_is_asked(llm, guards, monkeypatch):
    monkeypatch.setenv("LGRQ_CALL_ATTEMPTS", "3")
    llm.set_faults([{"fault": "500", "model": "gpt-4o", "times": 1}])
    assert done(await ask(MEDIUM, guards), "model", "fallback_used") == ("gpt-4o", False)
    assert called(llm) == ["gpt-4o-mini", "gpt-4o", "gpt-4o"]


@pytest.mark.parametrize("fault", ["500", "429", "quota", "malformed", "cut", "reset"])
async def test_another_model_answers_the_same_prompt_when_the_first_cannot_be_used(fault, llm, guards):
    llm.set_faults([{"fault": fault, "model": "gpt-4o"}])
    output = await ask(MEDIUM, guards)
    assert done(output, "model", "fallback_used") == ("gpt-4o-mini", True)
    assert not output["degraded"]
    assert MEDIUM in output["answer"]
    failed, last = llm.calls()[-2:]
    assert last["prompt"] == failed["prompt"]


async def test_fallback_is_another_model_than_the_one_that_failed(llm, guards):
    llm.set_faults([{"fault": "500", "model": "gpt-4o-mini", "match": "helpful assistant"}])
    output = await ask(SIMPLE, guards)
    assert called(llm) == ["gpt-4o-mini", "gpt-4o-mini", "gpt-4o"]
    assert done(output, "model", "fallback_used") == ("gpt-4o", True)


@pytest.mark.parametrize("fault", ["503", "content_filter", "context_length", "400"])
async def test_simpler_prompt_is_tried_when_no_model_answered_the_first(fault, llm, guards):
    llm.set_faults([{"fault": fault, "match": "helpful assistant"}])
    output = await ask(MEDIUM, guards)
    assert done(output, "model", "fallback_used") == ("gpt-4o-mini", True)
    assert not output["degraded"]
    failed, last = llm.calls()[-2:]
    assert len(last["prompt"]) < len(failed["prompt"])


async def test_hanging_model_is_given_up_after_the_timeout(llm, guards, monkeypatch):
    monkeypatch.setenv("LGRQ_CALL_TIMEOUT_S", "2")
    llm.set_faults([{"fault": "hang", "model": "gpt-4o"}])
    output = await ask(MEDIUM, guards)
    assert done(output, "fallback_used") == (True,)
    assert output["task_error"] is None


async def test_apology_and_error_when_nothing_answers(llm, guards):
    llm.set_faults([{"fault": "503"}])
    output = await ask(MEDIUM, guards)
    assert output["answer"].startswith("I am sorry")
    assert output["degraded"]
    assert output["task_error"]["type"] == "provider_unavailable"
    assert "HTTP 503" in output["task_error"]["message"]
    assert done(output, "model", "fallback_used") == (None, False)
    assert called(llm) == ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini", "gpt-4o-mini"]
    json.dumps(output)


@pytest.mark.parametrize("fault", ["401", "503"])
async def test_what_the_provider_says_about_an_error_is_not_repeated(fault, llm, guards):
    llm.set_faults([{"fault": fault}])
    message = (await ask(MEDIUM, guards))["task_error"]["message"]
    assert fault in message
    assert "API key" not in message
    assert "overloaded" not in message


@pytest.mark.parametrize("query", ["", " \n\t", "x" * (QUERY_BYTES + 1), "é" * (QUERY_BYTES // 2 + 1), 5, None, ["a"]])
async def test_what_is_no_question_is_refused_without_a_call(query, llm, guards):
    output = await ask(query, guards)
    assert output["task_error"]["type"] == "invalid_input"
    assert output["task_error"]["message"].startswith("query: expected a text of 1 to 8,000 bytes, got: ")
    assert output["answer"] is None
    assert llm.calls() == []


async def test_longest_question_is_answered_within_the_default_limit_of_a_request(llm, guards):
    assert guards.budget.request_tokens == 100_000
    output = await ask(f" {'é' * (QUERY_BYTES // 2)} ", guards)
    assert output["task_error"] is None


async def test_second_question_on_a_thread_knows_nothing_of_the_failed_first(llm, guards):
    saver = InMemorySaver()
    llm.set_faults([{"fault": "503"}])
    await ask(MEDIUM, guards, saver)
    llm.clear()
    output = await ask(SIMPLE, guards, saver)
    assert (output["task_error"], output["degraded"]) == (None, False)
    assert output["task_metadata"] == {"complexity": "simple", "downgraded": False}


async def test_hundred_questions_at_once_share_one_client(llm, guards):
    current_task.set(TaskGuard(guards))
    async with graph() as builder:
        compiled = builder.compile()
        outputs = await asyncio.gather(*(compiled.ainvoke({"query": f"{MEDIUM} {n}"}) for n in range(100)))
    assert all(f"{MEDIUM} {n}" in output["answer"] for n, output in enumerate(outputs))


async def spend(guards, aredis, tokens):
    budget = Budget(aredis, guards.budget)
    await budget.reserve("spent", Request(Amount(1)), "m", Payer(), ttl_ms=60_000)
    await budget.settle("spent", Charge(tokens, 0), "m", Payer())


@pytest.mark.parametrize(("spent", "downgraded", "model"), [(890_000, False, "gpt-4o"), (900_000, True, "gpt-4o-mini")])
async def test_simple_model_answers_near_the_end_of_the_budget(spent, downgraded, model, llm, guards, aredis):
    await spend(guards, aredis, spent)
    output = await ask(COMPLEX, guards)
    assert done(output, "complexity", "model", "downgraded") == ("complex", model, downgraded)
    assert called(llm)[-1] == model


async def test_simple_question_near_the_end_of_the_budget_is_not_downgraded(llm, guards, aredis):
    await spend(guards, aredis, 900_000)
    assert done(await ask(SIMPLE, guards), "model", "downgraded") == ("gpt-4o-mini", False)


async def test_spent_budget_ends_the_run_without_a_call(llm, guards, aredis):
    await spend(guards, aredis, 1_000_000)
    with pytest.raises(BudgetExceeded):
        await ask(MEDIUM, guards)
    assert llm.calls() == []


async def test_run_whose_task_is_gone_ends_without_a_call(llm, guards):
    current_task.set(TaskGuard(guards, "gone", 1, "me", deadline_at=time.monotonic() + 60))
    async with graph() as builder:
        with pytest.raises(TaskGone):
            await builder.compile().ainvoke({"query": MEDIUM})
    assert llm.calls() == []


async def open_breakers(aredis):
    breaker = Breakers(aredis, BreakerLimits())
    for model in ("gpt-4o", "gpt-4o-mini"):
        await breaker.report(f"openai/{model}", "t", 0, Outcome.QUOTA)


async def test_task_waits_when_no_model_may_be_called_and_its_deadline_allows(llm, guards, aredis):
    await open_breakers(aredis)
    with pytest.raises(ProviderUnavailableError) as caught:
        await ask(MEDIUM, guards, deadline_s=300)
    assert 20 < caught.value.retry_after_s < 40
    assert llm.calls() == []


async def test_apology_at_once_when_the_deadline_does_not_allow_to_wait(llm, guards, aredis):
    await open_breakers(aredis)
    output = await ask(MEDIUM, guards, deadline_s=10)
    assert output["degraded"]
    assert output["task_error"]["type"] == "provider_unavailable"
    assert "circuit breaker is open" in output["task_error"]["message"]
    assert llm.calls() == []


def of(model, guards):
    """The assistant with one model for everything."""
    current_task.set(TaskGuard(guards))
    names = {f"{kind}_model": "m" for kind in ("classifier", "simple", "medium", "complex", "fallback")}
    models = guard_models({"m": model}, "m", CallLimits())
    return build(Assistant(AssistantSettings(**names), models, 900)).compile()


class SilentModel(GenericFakeChatModel):
    async def _agenerate(self, *args, **kwargs):
        return self._generate(*args[:2])


async def test_empty_answers_are_no_answers(guards):
    said = iter([AIMessage("simple"), AIMessage("  "), AIMessage("")])
    output = await of(SilentModel(messages=said), guards).ainvoke({"query": MEDIUM})
    assert output["task_error"]["message"] == "no model could answer: its answer was empty"


async def test_result_of_a_worker_holds_answer_and_metadata(llm, redis_url, client):
    async with graph() as builder, worker(redis_url, {"assistant": builder.compile()}):
        result = await ended(client, client.submit({"query": MEDIUM}).task_id)
    metadata = result.metadata
    assert (result.status, metadata.model, metadata.complexity) == (State.SUCCESS, "gpt-4o", "medium")
    assert (metadata.fallback_used, metadata.downgraded) == (False, False)
    assert metadata.cost_usd > 0


async def test_result_of_a_spent_budget_is_budget_exceeded(llm, redis_url, client):
    budget = BudgetLimits(daily_tokens=100)
    async with graph() as builder, worker(redis_url, {"assistant": builder.compile()}, budget=budget):
        result = await ended(client, client.submit({"query": MEDIUM}).task_id)
    assert (result.status, result.error.type) == (State.ERROR, "budget_exceeded")
    assert result.error.message.startswith("daily token budget spent: 0 of 100 used")
    assert llm.calls() == []


async def test_result_of_an_outage_is_the_apology_beside_the_error(llm, redis_url, client):
    llm.set_faults([{"fault": "500"}])
    async with graph() as builder, worker(redis_url, {"assistant": builder.compile()}):
        result = await ended(client, client.submit({"query": MEDIUM}).task_id)
    assert (result.status, result.error.type) == (State.ERROR, "provider_unavailable")
    assert result.result["answer"].startswith("I am sorry")
    assert result.metadata.model is None


async def test_task_that_no_model_may_serve_runs_when_the_breaker_lets_one_through(llm, redis_url, client, aredis):
    await open_breakers(aredis)
    async with graph() as builder, worker(redis_url, {"assistant": builder.compile()}):
        task_id = client.submit({"query": MEDIUM}).task_id
        await until(lambda: (client.status(task_id).reason or "").startswith("waits for openai/"))
        assert llm.calls() == []
        for model in ("gpt-4o", "gpt-4o-mini"):
            await Breakers(aredis, BreakerLimits()).reset(f"openai/{model}")
            await scripts.run(aredis, wake_call([f"breaker:openai/{model}"]))
        result = await ended(client, task_id)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)

"""Workers announce the models whose calls they guard, and the doctor judges the fleet by that alone."""

import pytest

from langgraph_rq import AsyncClient
from langgraph_rq.producer.doctor import cost, resilience
from langgraph_rq.producer.doctor.finding import Level
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.worker.calls import announced_models
from langgraph_rq.worker.calls.announced_models import note_choice
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from tests.fleet import one_node_graph, worker
from tests.waiting import until

CHECKS = resilience.CHECKS | cost.CHECKS
JUDGED = ("circuit breakers", "retries", "fallback", "model selection")


@pytest.fixture(autouse=True)
def _nothing_announced(monkeypatch):
    """Forget what earlier tests of this process have called."""
    monkeypatch.setattr(announced_models, "_models", {})
    monkeypatch.setattr(announced_models, "_by_difficulty", set())


@pytest.fixture
def judge(redis_url):
    """Ask the doctor about the fleet."""
    with open_sync(redis_url) as redis:

        def ask():
            system = System({}, redis, redis)
            return {name: CHECKS[name](system) for name in JUDGED}

        yield ask


def levels(findings):
    return {findings[name].level for name in JUDGED}


def fleet(redis_url, node):
    return worker(redis_url, {"g": one_node_graph(node)})


async def run(redis_url):
    async with AsyncClient(redis_url) as client:
        await client.wait((await client.submit({}, graph="g")).task_id, timeout_s=30)


async def test_fleet_that_calls_no_guarded_model_passes_nothing(redis_url, judge):
    async with fleet(redis_url, lambda _: {}):
        await until(lambda: "g" in judge()["retries"].reason)
        findings = judge()
    assert levels(findings) == {Level.WARN}
    assert findings["fallback"].reason == "not known: the workers of g have guarded no model call"


async def test_models_that_are_wrapped_with_fallbacks_pass(redis_url, judge, chat):
    guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")])
    guarded_chat_model(chat("gpt-4o-mini"), [chat("gpt-4o")])
    async with fleet(redis_url, lambda _: {}):
        await until(lambda: levels(judge()) == {Level.PASS})
        findings = judge()
    assert findings["circuit breakers"].reason == "on for openai/gpt-4o, openai/gpt-4o-mini; all closed"
    assert findings["retries"].reason == "3 tries or more per model"


async def test_model_of_an_unchanged_graph_is_known_from_its_first_call(redis_url, judge, chat):
    model = chat("gpt-4o")

    async def node(_):
        await model.ainvoke("What is 2 + 2?")
        return {}

    async with fleet(redis_url, node):
        await run(redis_url)
        await until(lambda: judge()["circuit breakers"].level is Level.PASS)
        findings = judge()
    assert findings["retries"].reason == "tried once by the guards: openai/gpt-4o"
    assert findings["fallback"].reason == "without a fallback: openai/gpt-4o"
    assert findings["model selection"].reason == "openai/gpt-4o answers simple and complex questions"


async def test_fallbacks_of_langchain_count_as_fallbacks(redis_url, judge, chat):
    model = chat("gpt-4o").with_fallbacks([chat("gpt-4o-mini")])

    async def node(_):
        await model.ainvoke("What is 2 + 2?")
        return {}

    async with fleet(redis_url, node):
        await run(redis_url)
        await until(lambda: judge()["fallback"].level is Level.PASS)


async def test_choice_of_one_model_for_all_questions_is_a_warning(redis_url, judge, chat):
    guarded_chat_model(chat("gpt-4o"), [chat("gpt-4o-mini")])
    guarded_chat_model(chat("gpt-4o-mini"), [chat("gpt-4o")])  # classifies only
    note_choice(["gpt-4o", "gpt-4o", "gpt-4o"])
    async with fleet(redis_url, lambda _: {}):
        await until(lambda: judge()["model selection"].reason == "gpt-4o answers simple and complex questions")

"""The answer journal: a node that runs again repeats no call of a model, as long as it asks the same."""

import asyncio
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy
from pydantic import BaseModel
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome
from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.queue.waits import BREAKER, wake_call
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.replay import replay_answers
from langgraph_rq.worker.records import journal
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from tests.breakers import Breakers
from tests.fleet import one_node_graph, worker
from tests.model_calls import Said, billed, counted
from tests.waiting import Gate, until

WAIT_S = 30
MINI, OTHER = "openai/gpt-4o-mini", "openai/gpt-4o"
LIMITS = BreakerLimits(failure_threshold=1, window_s=0, open_s=60, max_open_s=60, jitter=0)
SECRET = "x" * 32


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    for name in ("generate", "agenerate", "stream", "astream"):
        monkeypatch.setattr(BaseChatModel, name, getattr(BaseChatModel, name))
    replay_answers()
    replay_answers()  # as a second context in one process does


class Verdict(BaseModel):
    is_fine: bool


class NoAnswerError(Exception):
    pass


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def run_again(redis_url, gate):
    """Run a node, hand its task back behind its calls, and run it in another worker."""

    async def run(node, *, between=None, stream=(), **options: Any):
        graphs = {"g": one_node_graph(node, Said)}
        options = {"checkpoints": True, "answer_journal": True, **options}
        with Client(redis_url) as client:
            async with worker(redis_url, graphs, drain_s=0, **options):
                task_id = client.submit({"text": "hello"}, graph="g", stream=stream).task_id
                await asyncio.wait_for(gate.reached.wait(), WAIT_S)
            if between:
                await between()
            async with worker(redis_url, graphs, **options):
                return await asyncio.to_thread(client.wait, task_id, WAIT_S)

    return run


@pytest.fixture
def raw(redis_url):
    """A client that does not decode: answers are no text."""
    with Redis.from_url(redis_url) as client:
        yield client


def journaled(raw):
    return [answer for key in raw.keys("agent:journal:*") for answer in raw.hvals(key)]


async def text_of(chunks):
    return [chunk.content async for chunk in chunks if chunk.content]


@pytest.mark.parametrize("guarded", [False, True])
async def test_node_that_runs_again_gets_the_answers_that_were_paid(run_again, gate, llm, chat, raw, guarded):
    model = guarded_chat_model(chat()) if guarded else chat()
    heard = []

    async def node(_state):
        answer = await model.ainvoke("hi")
        heard.append((answer, await text_of(model.astream("go on"))))
        await gate.hold_first()
        return {"text": answer.content}

    result = await run_again(node)
    (first, whole), (again, replayed) = heard
    assert (result.status, len(llm.calls())) == (State.SUCCESS, 2)
    assert (first, "".join(whole), len(replayed)) == (again, *replayed, 1)
    assert (counted(result), result.metadata.model) == (billed(llm), "gpt-4o-mini")
    assert journaled(raw) == []  # the checkpoint is saved


async def test_watched_task_shows_a_replayed_answer_as_one_token(run_again, gate, llm, chat, redis_url):
    async def node(_state):
        answer = await chat().ainvoke("hi")
        await gate.hold_first()
        return {"text": answer.content}

    result = await run_again(node, stream=["messages"])
    with Client(redis_url) as client:
        events = [event.data for event in client.events(result.task_id) if event.type == "messages"]
    again = [event["message"]["content"] for event in events if event["attempt"] == 2]
    assert again == [result.result["text"]]
    assert len(llm.calls()) == 1


async def test_another_request_at_the_same_place_does_not_get_the_recorded_answer(run_again, gate, llm, chat):
    async def node(_state):
        answer = await chat(temperature=gate.runs / 10).ainvoke("hi")
        other = await chat().ainvoke(f"run {gate.runs}")
        await gate.hold_first()
        return {"text": answer.content + other.content}

    result = await run_again(node)
    assert "run 1" in result.result["text"]
    assert len(llm.calls()) == 4


async def test_equal_calls_in_parallel_get_an_answer_each(run_again, gate, llm, chat):
    heard = []

    async def node(_state):
        answers = await asyncio.gather(*(chat().ainvoke("hi") for _ in range(5)))
        heard.append(sorted(answer.id for answer in answers))
        await gate.hold_first()
        return {"text": "done"}

    await run_again(node)
    assert heard[0] == heard[1]
    assert len(set(heard[0])) == len(llm.calls()) == 5


async def test_recorded_answer_needs_no_provider(run_again, gate, llm, chat, aredis):
    async def node(_state):
        answer = await chat().ainvoke("hi")
        await gate.hold_first()
        return {"text": answer.content}

    async def open_breaker():
        breakers = Breakers(aredis, LIMITS)
        admission = await breakers.allow(MINI, "other")
        assert (await breakers.report(MINI, "other", admission.generation, Outcome.FAIL)).after == "open"

    result = await run_again(node, between=open_breaker, breaker=LIMITS)
    assert (result.status, len(llm.calls())) == (State.SUCCESS, 1)


async def test_task_that_waits_behind_recorded_answers_starts_anew_and_pays_nothing_twice(
    redis_url, llm, chat, aredis, raw, lines
):
    async def node(_state):
        answers = [await chat(model).ainvoke("hi") for model in ("gpt-4o-mini", "gpt-4o")]
        return {"text": answers[-1].content}

    breakers = Breakers(aredis, LIMITS)
    admission = await breakers.allow(OTHER, "other")
    await breakers.report(OTHER, "other", admission.generation, Outcome.FAIL)
    graphs = {"g": one_node_graph(node, Said)}
    async with worker(redis_url, graphs, checkpoints=True, answer_journal=True, breaker=LIMITS) as one:
        with Client(redis_url) as client:
            task_id = client.submit({"text": ""}, graph="g").task_id
            await until(lambda: raw.zscore(f"agent:wait:breaker:{OTHER}", task_id) and one.in_flight == 0)
            await breakers.reset(OTHER)
            await run(aredis, wake_call([BREAKER + OTHER]))
            result = await asyncio.to_thread(client.wait, task_id, WAIT_S)
    assert (result.status, result.metadata.attempts) == (State.SUCCESS, 1)
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o"]
    assert lines.named("task.pays_again") == []


async def test_answers_are_encrypted_as_checkpoints_are(run_again, gate, llm, chat, raw):
    async def node(_state):
        answer = await chat().ainvoke("hi")
        await gate.hold_first()
        return {"text": answer.content}

    seen = []

    async def look():
        seen.extend(journaled(raw))

    result = await run_again(node, between=look, serializer=StateSerializer(StateKeys.parse(SECRET)))
    assert (len(seen), len(llm.calls()), result.status) == (1, 1, State.SUCCESS)
    assert b"You asked" not in seen[0]


async def test_answer_that_was_moved_or_spoilt_is_asked_for_again(run_again, gate, llm, chat, raw, lines):
    async def node(_state):
        answers = [await chat().ainvoke(question) for question in ("one", "two")]
        await gate.hold_first()
        return {"text": " ".join(answer.content for answer in answers)}

    async def swap():
        (key,) = raw.keys("agent:journal:*")
        (one, first), (two, second) = raw.hgetall(key).items()
        raw.hset(key, mapping={one: second, two: first})

    result = await run_again(node, between=swap, serializer=StateSerializer(StateKeys.parse(SECRET)))
    assert result.result["text"].index("one") < result.result["text"].index("two")
    assert (len(llm.calls()), len(lines.named("answer.unreadable"))) == (4, 2)


async def test_key_of_another_type_at_the_journal_costs_its_answers_only(run_again, gate, llm, chat, raw):
    async def node(_state):
        answer = await chat().ainvoke("hi")
        await gate.hold_first()
        return {"text": answer.content}

    async def plant():
        (key,) = raw.keys("agent:journal:*")
        raw.delete(key)
        raw.rpush(key, "planted")

    result = await run_again(node, between=plant)
    assert (result.status, len(llm.calls())) == (State.SUCCESS, 2)


async def test_full_journal_leaves_further_answers_out(run_again, gate, llm, chat, monkeypatch, lines):
    monkeypatch.setattr(journal, "MOST_ANSWERS", 1)

    async def node(_state):
        answers = [await chat().ainvoke(question) for question in ("one", "two")]
        await gate.hold_first()
        return {"text": answers[0].content}

    await run_again(node)
    assert len(llm.calls()) == 3
    assert {line["reason"] for line in lines.named("answer.not_kept")} == {"the journal is full"}


async def test_structured_answer_is_replayed(run_again, gate, llm, chat):
    heard = []

    async def node(_state):
        heard.append(await chat().with_structured_output(Verdict).ainvoke("Is it fine?"))
        await gate.hold_first()
        return {"text": "done"}

    serializer = StateSerializer()
    await run_again(node, serializer=serializer)
    assert heard[0] == heard[1] == Verdict(is_fine=heard[0].is_fine)
    assert len(llm.calls()) == 1
    with pytest.raises(RefusedStateError):  # it may be read where the model was not called
        serializer.dumps_typed(heard[0])


async def test_node_that_failed_asks_anew(redis_url, llm, chat):
    """Its answer may have been the reason: neither LangGraph's retries nor another attempt get it again."""
    runs = []

    async def node(_state):
        await chat().ainvoke("hi")
        runs.append(1)
        if len(runs) < 4:
            raise NoAnswerError
        return {"text": "done"}

    retry = RetryPolicy(max_attempts=2, initial_interval=0.01, retry_on=NoAnswerError)
    builder = StateGraph(Said).add_node("node", node, retry_policy=retry)
    graph = builder.add_edge(START, "node").add_edge("node", END).compile()
    async with worker(redis_url, {"g": graph}, checkpoints=True, answer_journal=True):
        with Client(redis_url) as client:
            task_id = client.submit({"text": ""}, graph="g", max_attempts=2).task_id
            result = await asyncio.to_thread(client.wait, task_id, WAIT_S)
    assert (result.status, len(llm.calls())) == (State.SUCCESS, 4)


async def test_without_the_setting_nothing_is_recorded(run_again, gate, llm, chat, raw):
    async def node(_state):
        answer = await chat().ainvoke("hi")
        assert journaled(raw) == []
        await gate.hold_first()
        return {"text": answer.content}

    await run_again(node, answer_journal=False)
    assert len(llm.calls()) == 2

"""The built-in assistant against a real HTTP server: which model answers, and what happens when none does."""

import asyncio
import json

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from shared.settings import AssistantSettings
from worker.assistant import QUERY_CHARS, Assistant, build, graph, read_complexity
from worker.offline_llm import OfflineLLM

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
    monkeypatch.setattr("worker.assistant.SDK_RETRIES", 0)
    server.admin.clear()
    return server.admin


async def ask(query, saver=None, **configurable):
    async with graph() as builder:
        config = {"configurable": {"thread_id": "t", **configurable}}
        return await builder.compile(checkpointer=saver).ainvoke({"query": query}, config)


def done(output, *keys):
    return tuple(output["task_metadata"][key] for key in keys)


@pytest.mark.parametrize(
    ("query", "complexity", "model"),
    [(SIMPLE, "simple", "gpt-4o-mini"), (MEDIUM, "medium", "gpt-4o"), (COMPLEX, "complex", "gpt-4o")],
)
async def test_model_is_chosen_by_complexity(query, complexity, model, llm):
    output = await ask(query)
    assert done(output, "complexity", "model") == (complexity, model)
    assert query in output["answer"]
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", model]


async def test_models_are_settable(llm, monkeypatch):
    for kind in ("classifier", "simple", "medium", "complex"):
        monkeypatch.setenv(f"LGRQ_ASSISTANT_{kind.upper()}_MODEL", f"{kind}-model")
    assert done(await ask(COMPLEX), "model") == ("complex-model",)
    assert [call["model"] for call in llm.calls()] == ["classifier-model", "complex-model"]


async def test_metadata_says_model_complexity_and_the_tokens_of_all_calls(llm):
    metadata = (await ask(MEDIUM))["task_metadata"]
    used = llm.stats()
    assert metadata == {
        "model": "gpt-4o",
        "complexity": "medium",
        "fallback_used": False,
        "input_tokens": sum(used["input_tokens"].values()),
        "output_tokens": sum(used["output_tokens"].values()),
    }


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
async def test_failed_classification_counts_as_medium_and_the_question_is_answered(fault, llm):
    llm.set_faults([{"fault": fault, "match": "Classify"}])
    output = await ask(SIMPLE)
    assert done(output, "complexity", "model") == ("medium", "gpt-4o")
    assert output["task_error"] is None


@pytest.mark.parametrize("fault", ["500", "429", "quota", "malformed", "cut", "reset", "context_length"])
async def test_another_model_with_a_simpler_prompt_answers_when_the_first_fails(fault, llm):
    llm.set_faults([{"fault": fault, "model": "gpt-4o"}])
    output = await ask(MEDIUM)
    assert done(output, "model", "fallback_used") == ("gpt-4o-mini", True)
    assert not output["degraded"]
    assert MEDIUM in output["answer"]
    failed, last = llm.calls()[-2:]
    assert len(last["prompt"]) < len(failed["prompt"])


async def test_fallback_is_another_model_than_the_one_that_failed(llm):
    llm.set_faults([{"fault": "500", "model": "gpt-4o-mini", "match": "helpful assistant"}])
    output = await ask(SIMPLE)
    assert [call["model"] for call in llm.calls()] == ["gpt-4o-mini", "gpt-4o-mini", "gpt-4o"]
    assert done(output, "model", "fallback_used") == ("gpt-4o", True)


async def test_hanging_model_is_given_up_after_the_timeout(llm, monkeypatch):
    monkeypatch.setenv("LGRQ_ASSISTANT_TIMEOUT_S", "0.3")
    llm.set_faults([{"fault": "hang", "model": "gpt-4o"}])
    output = await ask(MEDIUM)
    assert done(output, "fallback_used") == (True,)
    assert output["task_error"] is None


async def test_apology_and_error_when_nothing_answers(llm):
    llm.set_faults([{"fault": "503"}])
    output = await ask(MEDIUM)
    assert output["answer"].startswith("I am sorry")
    assert output["degraded"]
    assert output["task_error"]["type"] == "provider_unavailable"
    assert "HTTP 503" in output["task_error"]["message"]
    assert done(output, "model") == (None,)
    json.dumps(output)


async def test_what_the_provider_says_about_an_error_is_not_repeated(llm):
    llm.set_faults([{"fault": "401"}])
    assert "API key" not in (await ask(MEDIUM))["task_error"]["message"]


@pytest.mark.parametrize("query", ["", " \n\t", "x" * (QUERY_CHARS + 1), 5, None, ["a"]])
async def test_what_is_no_question_is_refused_without_a_call(query, llm):
    output = await ask(query)
    assert output["task_error"]["type"] == "invalid_input"
    assert output["task_error"]["message"].startswith("query: expected a text of 1 to 20,000 characters, got: ")
    assert output["answer"] is None
    assert llm.calls() == []


async def test_longest_question_is_answered(llm):
    assert (await ask("x" * QUERY_CHARS))["task_error"] is None


async def test_second_question_on_a_thread_knows_nothing_of_the_failed_first(llm):
    saver = InMemorySaver()
    llm.set_faults([{"fault": "503"}])
    await ask(MEDIUM, saver)
    llm.clear()
    output = await ask(SIMPLE, saver)
    assert (output["task_error"], output["degraded"]) == (None, False)
    assert done(output, "fallback_used") == (False,)
    assert output["task_metadata"]["input_tokens"] == sum(llm.stats()["input_tokens"].values())


async def test_hundred_questions_at_once_share_one_client(llm):
    async with graph() as builder:
        compiled = builder.compile()
        outputs = await asyncio.gather(*(compiled.ainvoke({"query": f"{MEDIUM} {n}"}) for n in range(100)))
    assert all(f"{MEDIUM} {n}" in output["answer"] for n, output in enumerate(outputs))


class Refused(BaseException):
    """As the guards refuse a call: nothing in a graph may take it for a failure of the provider."""


class RefusingModel(GenericFakeChatModel):
    async def ainvoke(self, *args, **kwargs):
        raise Refused


class SilentModel(GenericFakeChatModel):
    async def _agenerate(self, *args, **kwargs):
        return self._generate(*args, **kwargs)


def of(model):
    """The assistant with one model for everything."""
    names = {f"{kind}_model": "m" for kind in ("classifier", "simple", "medium", "complex", "fallback")}
    return build(Assistant(AssistantSettings(**names), {"m": model})).compile()


async def test_refusal_by_the_guards_ends_the_run():
    with pytest.raises(Refused):
        await of(RefusingModel(messages=iter([]))).ainvoke({"query": MEDIUM})


async def test_empty_answers_are_no_answers():
    said = iter([AIMessage("simple"), AIMessage("  "), AIMessage("")])
    output = await of(SilentModel(messages=said)).ainvoke({"query": MEDIUM})
    assert output["task_error"]["message"] == "no model could answer; the last one, m: its answer was empty"

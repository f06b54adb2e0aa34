"""Embeddings behind the guards, against a real HTTP server."""

import asyncio
import copy
from contextlib import asynccontextmanager

import pytest
import requests
import tiktoken
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_openai import OpenAIEmbeddings
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from langgraph_rq import AsyncClient, Client, ThreadRequestError
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import BudgetLimits, Hold, Payer
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.guarded_embeddings import guarded_embeddings
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import BudgetExceeded, ProviderUnavailableError
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.state.outages import Outages
from langgraph_rq.worker.state.store.access import Access
from langgraph_rq.worker.state.store.store import Store
from langgraph_rq.worker.state.store.vector_index import VectorIndex
from tests.breakers import Breakers
from tests.budget import Budget
from tests.fleet import PRICING, one_node_graph, worker
from tests.waiting import until

MODEL = "text-embedding-3-small"


@pytest.fixture
async def guards(aredis, redis_url):
    guards = Guards(aredis, redis_url, BreakerLimits(), BudgetLimits(), PRICING)
    yield guards
    await guards.aclose()


@pytest.fixture
async def plain(server):
    with DefaultHttpxClient() as http:
        async with DefaultAsyncHttpxClient() as ahttp:
            yield OpenAIEmbeddings(
                model=MODEL,
                base_url=server.url,
                api_key="offline",
                check_embedding_ctx_length=False,
                http_client=http,
                http_async_client=ahttp,
            )


async def used(guards, aredis, payer=None):
    return await Budget(aredis, guards.budget).usage(payer=payer)


async def test_vectors_are_those_of_the_embeddings_and_their_tokens_are_booked(plain, llm, guards, aredis):
    expected = await plain.aembed_documents(["roses", "cats"])
    llm.clear()
    guarded = guarded_embeddings(plain, guards=guards)
    assert await guarded.aembed_documents(["roses", "cats"]) == expected
    assert await asyncio.to_thread(guarded.embed_documents, ["roses", "cats"]) == expected
    assert guarded.embed_query("roses") == await guarded.aembed_query("roses") == expected[0]
    usage = await used(guards, aredis)
    billed = llm.stats()["input_tokens"][MODEL]
    assert (usage.tokens.used, usage.tokens.held) == (billed, 0)
    (model,) = usage.models
    assert (model.model, model.input_tokens, model.calls, model.estimated_calls) == (MODEL, billed, 4, 0)
    assert usage.cost.used == model.cost_nano_usd == billed * 20


@pytest.mark.parametrize(("hold", "expected"), [(Hold.ESTIMATE, 3 + 8), (Hold.WORST, 9 + 32)])
async def test_embeddings_that_do_not_report_their_usage_are_charged_by_their_texts(hold, expected, guards, aredis):
    guards.budget = BudgetLimits(hold=hold)
    guarded = guarded_embeddings(DeterministicFakeEmbedding(size=3), guards=guards)
    assert len(await guarded.aembed_documents(["roses", "cats"])) == 2
    usage = await used(guards, aredis)
    assert usage.tokens.used == expected  # nine bytes, and what a provider adds to a call
    assert usage.models[0].estimated_calls == 1


async def test_many_texts_are_split_into_calls_that_fit_into_one_request(plain, llm, guards):
    guards.budget = BudgetLimits(request_tokens=10_000)
    texts = [f"{n:04} {'x' * 2_995}" for n in range(10)]
    vectors = await guarded_embeddings(plain, guards=guards).aembed_documents(texts)
    assert len(vectors) == 10
    assert len({tuple(vector) for vector in vectors}) == 10
    assert len(llm.calls()) == 4


async def test_text_that_is_too_large_for_a_request_is_refused_without_a_call(plain, llm, guards):
    guards.budget = BudgetLimits(request_tokens=10_000)
    with pytest.raises(BudgetExceeded, match=r"langgraph-producer budget set request 10008$"):
        await guarded_embeddings(plain, guards=guards).aembed_query("x" * 30_000)
    assert llm.calls() == []


async def test_failed_call_is_tried_again_and_not_by_the_sdk(plain, llm, guards):
    llm.set_faults([{"fault": "500", "times": 2}])
    await guarded_embeddings(plain, guards=guards).aembed_query("roses")
    assert len(llm.calls()) == 3


@pytest.mark.parametrize("is_sync", [False, True])
async def test_embeddings_that_keep_failing_open_their_breaker(is_sync, plain, llm, guards, aredis):
    llm.set_faults([{"fault": "503"}])
    guards.breaker = BreakerLimits(failure_threshold=2)
    guarded = guarded_embeddings(plain, guards=guards, limits=CallLimits(attempts=2))
    with pytest.raises(ProviderUnavailableError):
        await (asyncio.to_thread(guarded.embed_query, "x") if is_sync else guarded.aembed_query("x"))
    (status,) = await Breakers(aredis, guards.breaker).states()
    assert (status.name, status.state) == (f"openai/{MODEL}", "open")


async def test_outside_of_a_worker_they_say_what_is_missing(plain):
    with pytest.raises(RuntimeError, match=r"give guards=Guards"):
        await guarded_embeddings(plain).aembed_query("roses")


async def test_model_of_a_run_is_the_one_that_answered_not_the_one_that_embedded(plain, llm, guards):
    task = TaskGuard(guards, model="gpt-4o")
    current_task.set(task)
    await guarded_embeddings(plain).aembed_query("roses")
    assert (task.model, task.input_tokens) == ("gpt-4o", llm.stats()["input_tokens"][MODEL])


async def test_task_of_a_worker_pays_for_its_guarded_embeddings(plain, llm, redis_url, aredis):
    guarded = guarded_embeddings(plain)

    async def node(_state: dict) -> dict:
        return {"size": len(await guarded.aembed_query("roses"))}

    async with worker(redis_url, {"g": one_node_graph(node)}):
        with Client(redis_url) as client:
            task_id = client.submit({}, graph="g", user_id="ann").task_id
            result = await asyncio.to_thread(client.wait, task_id, 20)
    assert (result.status, result.result) == (State.SUCCESS, {"size": 1536})
    assert result.metadata.input_tokens == llm.stats()["input_tokens"][MODEL]
    usage = await Budget(aredis, BudgetLimits()).usage(payer=Payer(user_id="ann"))
    assert usage.tokens.used == result.metadata.input_tokens


@pytest.mark.parametrize("is_sync", [False, True])
async def test_failed_download_of_a_tokenizer_is_not_a_failure_of_the_provider(
    is_sync, plain, llm, guards, aredis, monkeypatch, tmp_path
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "cl100k_base", raising=False)
    guarded = guarded_embeddings(plain.model_copy(update={"check_embedding_ctx_length": True}), guards=guards)
    with pytest.raises(requests.exceptions.ConnectionError):
        await (asyncio.to_thread(guarded.embed_query, "roses") if is_sync else guarded.aembed_query("roses"))
    assert llm.calls() == []
    assert (await Breakers(aredis, BreakerLimits()).states())[0].window_failed == 0
    tokens = (await used(guards, aredis)).tokens
    assert (tokens.used, tokens.held) == (0, 0)


async def test_attributes_of_the_wrapped_embeddings_are_passed_through(plain, guards):
    guarded = guarded_embeddings(plain, guards=guards)
    assert (guarded.dimensions, guarded.chunk_size, guarded.openai_api_base) == (None, 1000, plain.openai_api_base)
    assert guarded.model == MODEL
    with pytest.raises(AttributeError, match=r"GuardedEmbeddings nor OpenAIEmbeddings has an attribute 'nothing'"):
        _ = guarded.nothing
    assert copy.copy(guarded).chunk_size == 1000


class Plain(Embeddings):
    """Embeddings of one's own, sync only, that know no usage."""

    size = 2

    def embed_documents(self, texts):
        return [[float(len(text))] * self.size for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


async def test_embeddings_of_any_class_are_counted_by_their_texts(guards, aredis):
    guarded = guarded_embeddings(Plain(), guards=guards)
    assert await guarded.aembed_documents(["roses", "cats"]) == guarded.embed_documents(["roses", "cats"])
    assert await guarded.aembed_query("cats") == [4.0, 4.0]
    assert guarded.size == 2
    (model,) = (await used(guards, aredis)).models
    assert (model.model, model.calls, model.estimated_calls) == ("Plain", 3, 3)
    assert model.input_tokens >= 3 * 8


@asynccontextmanager
async def storing(plain, redis_url, redis_client, **limits):
    """A client, and a worker whose store embeds items."""
    async with open_async(redis_url) as stored:
        loops = EventLoops(stored, redis_url)
        store = Store(Access(loops, Outages()), index=VectorIndex(1536, guarded_embeddings(plain)))
        async with (
            AsyncClient(redis_url) as client,
            worker(redis_url, {"g": one_node_graph(lambda state: state)}, store=store, budget=BudgetLimits(**limits)),
        ):
            await until(lambda: redis_client.zscore("agent:graphs", "g"))
            yield client
        await loops.aclose()


async def test_tenant_pays_for_the_items_that_it_puts_and_searches(plain, llm, redis_url, redis_client, aredis):
    async with storing(plain, redis_url, redis_client) as client:
        acme = client.for_tenant("acme")
        await acme.store.put(["n"], "roses", {"text": "roses"})
        assert (await acme.store.search(["n"], query="roses"))[0]["score"] > 0.5
    usage = await Budget(aredis, BudgetLimits()).usage(payer=Payer(tenant="acme"))
    assert usage.tokens.used == llm.stats()["input_tokens"][MODEL] > 0


async def test_item_is_not_put_when_the_budget_for_its_embedding_is_spent(plain, llm, redis_url, redis_client):
    async with storing(plain, redis_url, redis_client, daily_tokens=1) as client:
        with pytest.raises(ThreadRequestError, match="BudgetExceeded"):
            await client.store.put(["n"], "k", {"text": "roses and more roses"})
        assert await client.store.get(["n"], "k") is None
    assert llm.calls() == []

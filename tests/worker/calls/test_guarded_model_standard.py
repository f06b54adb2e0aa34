"""A guarded model passes LangChain's own standard tests for chat models, against a real HTTP server."""

import openai
import pytest
import pytest_asyncio
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.clients import open_async
from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from langgraph_rq.worker.guards.guards import Guards
from tests.fleet import PRICING


class GuardedOpenAI(ChatOpenAI):
    """What the suite takes for the model's class: makes a ChatOpenAI, and guards it."""

    def __new__(cls, **parameters):
        return guarded_chat_model(ChatOpenAI(**cls.clients, **parameters), guards=cls.guards)

    @classmethod
    def is_lc_serializable(cls):
        return type(cls(model="m", api_key="k")).is_lc_serializable()


# The suite's async tests have a loop each, none of them the guards' own: as for a node that calls asyncio.run.
@pytest_asyncio.fixture(scope="module", autouse=True, loop_scope="module")
async def guards(redis_server):
    async with open_async(redis_server.url) as redis:
        guards = Guards(redis, redis_server.url, BreakerLimits(), BudgetLimits(daily_tokens=None), PRICING)
        with openai.DefaultHttpxClient() as http, OfflineLLM() as server:
            GuardedOpenAI.guards, GuardedOpenAI.server = guards, server
            # Clients made once: making one reads the machine's certificates, for a third of a second each.
            GuardedOpenAI.clients = {"http_client": http, "http_async_client": openai.DefaultAsyncHttpxClient()}
            yield guards
            await guards.loops.run_here(GuardedOpenAI.clients["http_async_client"].aclose())
        await guards.aclose()


@pytest.fixture(autouse=True)
def empty_redis(redis_url, monkeypatch):
    """Each test starts on an empty one."""
    monkeypatch.setenv("OPENAI_API_KEY", "offline")


class TestUnit(ChatModelUnitTests):
    chat_model_class = GuardedOpenAI

    @property
    def chat_model_params(self):
        return {"model": "gpt-4o-mini", "base_url": GuardedOpenAI.server.url}

    @property
    def init_from_env_params(self):
        return {"OPENAI_API_KEY": "from env"}, {"model": "gpt-4o-mini"}, {"openai_api_key": "from env"}


# Both come without a guard, too: from the OpenAI SDK, and from a schema of pydantic 1 that the suite insists on.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings", "ignore:Received a Pydantic BaseModel V1 schema")
class TestIntegration(ChatModelIntegrationTests):
    chat_model_class = GuardedOpenAI
    supports_json_mode = True
    # Images, audio and PDF stay off: the suite downloads its samples from the internet.
    model_override_value = "gpt-4o"

    @property
    def chat_model_params(self):
        return {"model": "gpt-4o-mini", "base_url": GuardedOpenAI.server.url}

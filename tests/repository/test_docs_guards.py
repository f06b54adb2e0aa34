"""What docs/guards.md says holds: its code runs, its commands work, its defaults are the defaults."""

import asyncio
import re
import shlex
from functools import partial

import langchain_openai
import pytest
from click.testing import CliRunner
from openai import DefaultAsyncHttpxClient
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits, Outcome, report_call
from langgraph_rq.shared.budget.model_stats import KNOWN_CALLS
from langgraph_rq.shared.budget.pricing import UNKNOWN_RATE
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.settings import BreakerSettings, BudgetSettings, Settings
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.inner_model import OUTPUT_TOKENS
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.fleet import worker
from tests.installation import ROOT

PAGE = ROOT.joinpath("docs", "guards.md").read_text()
TEXT = " ".join(PAGE.split())
CODE, ONCE = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^\$ langgraph-producer (.+)$", PAGE, re.MULTILINE)
ROWS = re.findall(r"^\| .+ \| ([\d,.]+|none) \| `(LGRQ_\w+)` \|$", PAGE, re.MULTILINE)


@pytest.fixture
async def page(monkeypatch):
    """The page's code, with HTTP clients that are closed in the loop that used them."""
    async with DefaultAsyncHttpxClient() as http:
        for name in ("ChatOpenAI", "OpenAIEmbeddings"):
            made = partial(getattr(langchain_openai, name), http_async_client=http)
            monkeypatch.setattr(langchain_openai, name, made)

        def run():
            names = {}
            exec(CODE, names)
            return names

        yield run


async def test_graph_of_the_page_runs_on_a_worker(page, redis_url, monkeypatch):
    with OfflineLLM() as llm, Client(redis_url) as client:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
        monkeypatch.setenv("OPENAI_API_KEY", "offline")
        async with worker(redis_url, {"g": page()["graph"].compile()}):
            task_id = client.submit({"messages": [["user", "Where is my order?"]]}, graph="g").task_id
            result = await asyncio.to_thread(client.wait, task_id, 20)
        called = [call["model"] for call in llm.admin.calls()]
    assert (result.status, result.metadata.model) == (State.SUCCESS, "gpt-4o")
    assert "tickets: ConnectionError" in result.result["messages"][-1]["content"]
    assert called == ["text-embedding-3-small", "gpt-4o"]


async def test_call_that_is_made_once_runs_as_it_stands():
    names = {}
    exec(ONCE, names)
    assert await names["settle"]({"order": 7, "amount_cents": 5}) == {"said": "refunded 5 cents of order 7"}


def defaults(settings: type[Settings]):
    return {name: getattr(settings(), field) for name, field in settings.names().items()}


def test_defaults_of_the_tables_are_those_of_the_settings():
    known = defaults(BreakerSettings) | defaults(BudgetSettings)
    shown = {name: None if value == "none" else float(value.replace(",", "")) for value, name in ROWS}
    assert shown == {name: known[name] for name in shown}
    kept_apart = {
        "LGRQ_BUDGET_HOLD",
        "LGRQ_CALL_OUTPUT_TOKENS",
        "LGRQ_BUDGET_UTC_OFFSET_S",
        "LGRQ_BUDGET_DOWNGRADE_PERCENT",
        "LGRQ_BUDGET_PRICES",
    }
    assert known.keys() - shown.keys() == kept_apart
    assert all(name in PAGE for name in kept_apart)


def test_numbers_of_the_text_are_those_of_the_code():
    budget, limits = BudgetSettings(), CallLimits()
    assert f"{budget.call_output_tokens:,} tokens (`LGRQ_CALL_OUTPUT_TOKENS`)" in TEXT
    assert f"until {KNOWN_CALLS} of them are known" in TEXT
    assert f"Above {budget.downgrade_percent} % of a limit" in TEXT
    assert f"${UNKNOWN_RATE.input_usd_per_mtok} per million input tokens" in TEXT
    assert f"${UNKNOWN_RATE.output_usd_per_mtok} per million output tokens" in TEXT
    assert f"output limit of {OUTPUT_TOKENS:,} tokens" in TEXT
    assert f"waits up to {limits.longest_wait_s:g} s" in TEXT
    assert f"tried {limits.attempts} times" in TEXT
    *first, last = budget.limits().alert_percents
    assert f"{', '.join(map(str, first))} and {last} %" in TEXT


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_page_works(command, redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    with Redis.from_url(redis_url) as redis:
        scripts.run_sync(redis, report_call("openai/gpt-4o", "t", 0, Outcome.QUOTA, BreakerLimits()))
    done = CliRunner().invoke(main, shlex.split(command))
    assert done.exit_code == 0, done.output

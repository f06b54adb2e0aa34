"""`langgraph_rq`: what it offers, what importing it costs, and what a type checker knows of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import langgraph_rq
from langgraph_rq.producer.client.task_fields import TaskFields
from langgraph_rq.shared.tasks import Task

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph_rq import AsyncClient, Client, guarded_chat_model

with Client() as client:
    client.submit({"query": "?"}, graf="triage")
    client.submit({"query": "?"}, priority="urgent")
    reveal_type(client.submit({"query": "?"}, graph="triage", priority="high", stream=["messages"], user_id=None))

async def ask() -> None:
    async with AsyncClient() as client:
        await client.submit({"query": "?"}, graf="triage")
        reveal_type(await client.submit({"query": "?"}, deadline_s=60))

reveal_type(guarded_chat_model(FakeListChatModel(responses=[])))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_type_checker_finds_a_misspelt_keyword_and_knows_what_is_returned(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert re.findall(r"error: (.*?)(?:; expected .*)?  \[", found) == [
        'Unexpected keyword argument "graf" for "submit" of "Client"',
        'Argument "priority" to "submit" of "Client" has incompatible type "Literal[\'urgent\']"',
        'Unexpected keyword argument "graf" for "submit" of "ClientCore"',
    ]
    assert re.findall(r'Revealed type is "(?:\w+\.)*(\w+)"', found) == ["Receipt", "Receipt", "FakeListChatModel"]


def test_keywords_of_submit_are_the_fields_of_a_task():
    given_otherwise = {"input", "tenant", "schema_version"}
    assert set(TaskFields.__annotations__) == Task.model_fields.keys() - given_otherwise


def test_importing_the_package_loads_none_of_its_libraries():
    heavy = ("rq", "redis", "pydantic", "langgraph", "langchain_core")
    program = f"import sys, langgraph_rq; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_importing_a_client_loads_no_langgraph():
    program = "import sys; from langgraph_rq import Client; print('langgraph' in sys.modules, 'rq' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False False"


@pytest.mark.parametrize("name", langgraph_rq.__all__)
def test_public_name_is_there_and_listed(name):
    assert getattr(langgraph_rq, name).__name__ == name
    assert name in dir(langgraph_rq)


def test_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        _ = langgraph_rq.Cleint


def test_every_loaded_name_is_public():
    assert {*langgraph_rq._HOMES, "run_task"} == set(langgraph_rq.__all__)

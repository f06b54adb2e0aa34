"""The offline model's JSON for a schema."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from langgraph_rq.worker.dev.offline_model.sample_values import complexity_of, value_that_fits
from tests.offline_model import after_a_tool, body_of, say


class Step(BaseModel):
    title: str = Field(min_length=3, max_length=40)
    minutes: int = Field(gt=0, lt=60)


class Plan(BaseModel):
    goal: str
    complexity: Literal["complex", "medium", "simple"]
    steps: list[Step] = Field(min_length=2)
    confidence: float = Field(ge=0, le=1)
    note: str | None = None


async def test_json_schema_gets_json_that_fits(client):
    completion = await client.chat.completions.parse(**body_of("Design a trip to Lima, 90"), response_format=Plan)
    plan = completion.choices[0].message.parsed
    assert isinstance(plan, Plan)
    assert plan.goal == "Lima"
    assert plan.complexity == "complex"


async def test_json_object_has_the_keys_that_the_prompt_quotes(client):
    text = await say(
        client,
        "Tell a joke as JSON with 'setup' and 'punchline' keys.",
        response_format={"type": "json_object"},
    )
    assert set(json.loads(text)) == {"setup", "punchline"}


async def test_json_after_a_tool_is_drawn_from_what_it_said(client):
    schema = TypeAdapter(dict[Literal["x"], int]).json_schema() | {"properties": {"degrees": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    assert json.loads(await say(client, after_a_tool("12 degrees"), response_format=wanted)) == {"degrees": 12}


@pytest.mark.parametrize(
    "kind",
    [Plan, list[Plan], tuple[int, str], dict[str, int], int | None, bool, Literal["a", "b"], list[float], None],
)
@pytest.mark.parametrize("question", ["", "Add 1, 2.5 and -3,000 for 'Ann' in Lima"])
def test_value_fits_whatever_schema_is_given(kind, question):
    adapter = TypeAdapter(kind)
    adapter.validate_json(json.dumps(value_that_fits(adapter.json_schema(), question)), strict=True)


def test_schema_that_contains_itself_ends():
    class Node(BaseModel):
        name: str
        children: list["Node"]
        twin: "Node | None"

    Node.model_validate(value_that_fits(Node.model_json_schema(), "Which node?"))


def test_numbers_of_a_question_fill_a_list_of_numbers():
    schema = TypeAdapter(list[int]).json_schema()
    assert value_that_fits(schema, "Add 1, 2 and -3 to 1,000.") == [1, 2, -3, 1000]


def test_longer_questions_are_never_labelled_as_simpler():
    order = ["simple", "medium", "complex"]
    labels = [order.index(complexity_of("word " * length)) for length in range(60)]
    assert labels == sorted(labels)

"""Every graph streams through a worker what it streams with LangGraph alone, mode by mode, with its subgraphs.

Compared are the events of each turn, their namespaces, and the number of calls of models, tools and nodes.
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from langgraph_rq.shared.run_fields import StreamMode
from tests.langgraph.bench import Bare, Bench, Streamed, bench, streamed
from tests.langgraph.suite import CASES

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL = [mode for mode in StreamMode if mode is not StreamMode.EVENTS]
"""LangChain's events are streamed by a method of their own, whose runs have other metadata."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, {name: case.graph for name, case in CASES.items()}) as running:
        yield running


async def compare(served: Bench, name: str, modes: Sequence[StreamMode]) -> None:
    """Compare a conversation through a worker with one of LangGraph alone."""
    bare, conversation = Bare(CASES[name].graph), served.serve(name)
    for number, turn in enumerate(CASES[name].turns, 1):
        task_id = str(uuid4())
        expected, seen = await bare.stream(turn, modes, name, task_id), await conversation.stream(turn, modes, task_id)
        fails = CASES[name].fails and number == len(CASES[name].turns)
        assert (seen.failed, seen.calls) == (expected.failed, expected.calls) == (fails, expected.calls)
        for mode in modes:
            assert of(mode, seen) == of(mode, expected), mode


def of(mode: StreamMode, found: Streamed) -> list:
    """What was streamed in a mode, without the order of what ran side by side, which is that of threads."""
    groups: dict[Any, list] = {}
    for namespace, data in found.parts.get(mode, []):
        match mode:
            case StreamMode.MESSAGES:
                thing = data[0]["id"]
            case StreamMode.TASKS:
                thing = data["id"]
            case StreamMode.DEBUG:
                thing = data["payload"].get("id", namespace)
            case StreamMode.UPDATES:
                thing = streamed([namespace, data])
            case StreamMode.EVENTS:
                thing = data["run_id"]
            case _:
                thing = namespace
        groups.setdefault(json.dumps(thing), []).append([namespace, data])
    if mode is StreamMode.EVENTS:
        groups = {thing: without_ids(group) for thing, group in groups.items()}
    if mode in {StreamMode.UPDATES, StreamMode.EVENTS}:
        return sorted(map(streamed, groups.values()), key=json.dumps)
    in_order = sorted(groups.values(), key=lambda group: json.dumps(streamed(group)))
    return streamed([part for group in in_order for part in group])


def without_ids(value: Any) -> Any:
    """Without the ids of messages: LangGraph adds them to the objects, which an event may show before or after that."""
    if isinstance(value, dict):
        is_message = "response_metadata" in value
        return {name: without_ids(part) for name, part in value.items() if not (is_message and name == "id")}
    return [without_ids(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
async def test_graph_streams_in_all_modes_what_it_does_with_langgraph_alone(served: Bench, name: str):
    await compare(served, name, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.keeps])
async def test_graph_streams_the_same_in_each_mode_alone(served: Bench, name: str):
    for mode in StreamMode:
        await compare(served, name, [mode])

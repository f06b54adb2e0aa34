"""Continue what failed: the nodes that have finished do not run again, and nothing is paid twice."""

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
import pytest_asyncio
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from langgraph_rq import NotContinuableError, UnknownTaskError
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.tasks import State
from tests.gateways import gateway
from tests.langgraph.bench import bench
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNS: Counter[str] = Counter()
"""How often a node ran, by the name of its task's case."""


class Said(TypedDict):
    name: str
    fails: int
    said: Annotated[list, operator.add]


async def first(state: Said) -> dict:
    RUNS[f"{state['name']} first"] += 1
    return {"said": ["first"]}


async def second(state: Said) -> dict:
    RUNS[f"{state['name']} second"] += 1
    return {"said": ["second"]}


async def third(state: Said) -> dict:
    RUNS[f"{state['name']} third"] += 1
    if RUNS[f"{state['name']} third"] <= state["fails"]:
        raise ValueError("not this time")
    return {"said": ["third"]}


async def fourth(state: Said) -> dict:
    RUNS[f"{state['name']} fourth"] += 1
    if RUNS[f"{state['name']} fourth"] <= state["fails"]:
        raise ValueError("not this time")
    return {"said": ["fourth"]}


async def hang(state: Said) -> dict:
    RUNS[f"{state['name']} hang"] += 1
    if RUNS[f"{state['name']} hang"] == 1:
        await asyncio.Event().wait()
    return {"said": ["went on"]}


async def ask(state: Said) -> dict:
    answer = interrupt("which?")
    RUNS[f"{state['name']} ask"] += 1
    if RUNS[f"{state['name']} ask"] <= state["fails"]:
        raise ValueError("not this time")
    return {"said": [answer]}


def chain(*nodes):
    builder = StateGraph(Said)
    for node in nodes:
        builder.add_node(node.__name__, node)
    for one, other in zip((START, *[node.__name__ for node in nodes]), [node.__name__ for node in nodes], strict=False):
        builder.add_edge(one, other)
    return builder.compile()


def fan():
    builder = StateGraph(Said).add_node(first).add_node(second).add_node(third)
    return builder.add_edge(START, "first").add_edge("first", "second").add_edge("first", "third").compile()


GRAPHS: dict[str, Any] = {
    "chain": chain(first, second, third),
    "long": chain(first, third, fourth),
    "fan": fan(),
    "hangs": chain(first, hang),
    "asks": chain(first, ask),
    "begins badly": chain(third),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, GRAPHS) as running:
        yield running


def new(fails: int = 1) -> dict:
    return {"input": {"name": str(uuid4()), "fails": fails, "said": []}}


def runs(task: dict) -> dict[str, int]:
    return {node.split()[1]: times for node, times in RUNS.items() if node.startswith(task["input"]["name"])}


async def continued(served, task_id: str):
    receipt = await served.client.continue_(task_id)
    return await served.client.wait(receipt.task_id, 30)


@pytest.mark.parametrize("thread_id", [None, "failed"])
async def test_failed_task_goes_on_with_the_node_that_failed(served, thread_id):
    task = new()
    failed = await served.serve("chain").submit({**task, "thread_id": thread_id})
    assert failed.status is State.ERROR
    result = await continued(served, failed.task_id)
    assert (result.status, result.result["said"]) == (State.SUCCESS, ["first", "second", "third"])
    assert runs(task) == {"first": 1, "second": 1, "third": 2}
    assert result.metadata.continues == failed.task_id


async def test_node_beside_the_one_that_failed_does_not_run_again(served):
    task = new()
    failed = await served.serve("fan").submit({**task, "thread_id": None})
    result = await continued(served, failed.task_id)
    assert sorted(result.result["said"]) == ["first", "second", "third"]
    assert runs(task) == {"first": 1, "second": 1, "third": 2}


async def test_null_input_on_the_thread_of_a_failed_task_continues_it(served):
    task = new()
    conversation = served.serve("chain")
    await conversation.submit({**task, "thread_id": "null"})
    result = await conversation.submit({"input": None, "thread_id": "null"})
    assert result.result["said"] == ["first", "second", "third"]
    assert runs(task) == {"first": 1, "second": 1, "third": 2}


@pytest.mark.parametrize("thread_id", [None, "again"])
async def test_task_is_continued_until_it_succeeds_and_then_is_one_task(served, thread_id):
    task = new(fails=2)
    failed = await served.serve("long").submit({**task, "thread_id": thread_id})
    once = await continued(served, failed.task_id)  # no checkpoint of its own
    twice = await continued(served, once.task_id)  # one, and fails in the next node
    third_time = await continued(served, twice.task_id)
    assert [one.status for one in (once, twice, third_time)] == [State.ERROR] * 3
    result = await continued(served, third_time.task_id)
    assert result.result["said"] == ["first", "third", "fourth"]
    assert runs(task) == {"first": 1, "third": 3, "fourth": 3}
    again = await served.client.continue_(third_time.task_id)
    assert (again.task_id, again.created) == (result.task_id, False)


async def test_same_task_continued_again_goes_on_from_what_the_last_try_has_reached(served):
    task = new(fails=2)
    failed = await served.serve("long").submit({**task, "thread_id": None})
    for _ in range(3):
        assert (await continued(served, failed.task_id)).status is State.ERROR
    assert (await continued(served, failed.task_id)).result["said"] == ["first", "third", "fourth"]
    assert runs(task) == {"first": 1, "third": 3, "fourth": 3}


async def test_task_without_a_checkpoint_begins_anew(served):
    task = new()
    cancelled = await served.client.submit(task["input"], graph="chain", delay_s=3600)
    assert await served.client.cancel(cancelled.task_id) is State.CANCELLED
    again = await served.client.continue_(cancelled.task_id)
    assert (await served.client.wait(again.task_id, 30)).status is State.ERROR
    assert runs(task) == {"first": 1, "second": 1, "third": 1}


async def test_task_that_timed_out_or_was_cancelled_is_continued(served):
    for end in ("timeout", "cancelled"):
        task = new()
        fields = {"deadline_s": 1.0} if end == "timeout" else {}
        receipt = await served.client.submit(task["input"], graph="hangs", **fields)
        await until(lambda task=task: runs(task).get("hang"))
        if end == "cancelled":
            await served.client.cancel(receipt.task_id)
        assert (await served.client.wait(receipt.task_id, 30)).status == end
        result = await continued(served, receipt.task_id)
        assert (result.status, result.result["said"]) == (State.SUCCESS, ["first", "went on"])
        assert runs(task) == {"first": 1, "hang": 2}


@pytest.mark.parametrize("thread_id", [None, "answered"])
async def test_task_that_failed_with_an_answer_is_continued_with_it(served, thread_id):
    task = new()
    asked = await served.serve("asks").submit({**task, "thread_id": thread_id})
    failed = await served.client.wait((await served.client.resume(asked.task_id, "this")).task_id, 30)
    assert failed.status is State.ERROR
    result = await continued(served, failed.task_id)
    assert result.result["said"] == ["first", "this"]
    assert runs(task) == {"first": 1, "ask": 2}


async def test_failed_command_is_continued_without_writing_its_update_again(served):
    task = new(fails=0)
    await served.serve("chain").submit({**task, "thread_id": "commanded"})
    command = {"goto": "third", "update": {"said": ["more"], "fails": 2}}
    failed = await served.serve("chain").submit({"thread_id": "commanded", "command": command})
    assert failed.status is State.ERROR
    result = await continued(served, failed.task_id)
    assert result.result["said"] == ["first", "second", "third", "more", "third"]
    assert runs(task) == {"first": 1, "second": 1, "third": 3}


async def test_failed_command_is_continued_with_its_answer(served):
    task = new()
    await served.serve("asks").submit({**task, "thread_id": "told"})
    failed = await served.serve("asks").submit({"thread_id": "told", "command": {"resume": "this"}})
    assert failed.status is State.ERROR
    result = await continued(served, failed.task_id)
    assert result.result["said"] == ["first", "this"]
    assert runs(task) == {"first": 1, "ask": 2}


async def test_update_of_another_command_is_not_taken_for_ones_own(served):
    task = new(fails=0)
    await served.serve("chain").submit({**task, "thread_id": "two commands"})
    command = {"goto": "third", "update": {"said": ["more"], "fails": 2}}
    failed = await served.serve("chain").submit({"thread_id": "two commands", "command": command})
    other = {"goto": "third", "update": {"said": ["other"], "fails": 0}}
    continues = {"task_id": failed.task_id}
    fields = {"thread_id": "two commands", "command": other, "continues": continues}
    assert (await served.serve("chain").submit(fields)).error.type is ErrorType.REJECTED


async def test_failed_command_is_not_continued_on_a_thread_that_has_gone_on(served):
    task = new(fails=0)
    await served.serve("chain").submit({**task, "thread_id": "passed"})
    command = {"goto": "third", "update": {"said": ["more"], "fails": 2}}
    failed = await served.serve("chain").submit({"thread_id": "passed", "command": command})
    await served.serve("chain").submit({**task, "thread_id": "passed"})
    result = await continued(served, failed.task_id)
    assert result.error.type is ErrorType.REJECTED


async def test_thread_that_has_gone_on_is_not_continued(served):
    conversation = served.serve("chain")
    failed = await conversation.submit({**new(), "thread_id": "on"})
    await conversation.submit({**new(fails=0), "thread_id": "on"})
    late = await continued(served, failed.task_id)
    assert late.error.type is ErrorType.REJECTED
    assert "the thread has gone on since task" in late.error.message


async def test_what_has_not_failed_is_not_continued(served):
    done = await served.serve("chain").submit({**new(fails=0), "thread_id": None})
    asked = await served.serve("asks").submit({**new(), "thread_id": None})
    for task_id, words in (
        (done.task_id, "is success: only one that failed"),
        (asked.task_id, "is interrupted: .*resume it"),
    ):
        with pytest.raises(NotContinuableError, match=words):
            await served.client.continue_(task_id)
    with pytest.raises(UnknownTaskError):
        await served.client.continue_("never-there")


async def test_http_continues_a_task(served, redis_server):
    task = new()
    failed = await served.serve("chain").submit({**task, "thread_id": None})
    async with gateway(redis_server.url) as http:
        answer = await http.post(f"/tasks/{failed.task_id}/continue")
        assert answer.status_code == 202
        result = await http.get(f"/tasks/{answer.json()['task_id']}/result?wait=30")
        refused = await http.post(f"/tasks/{answer.json()['task_id']}/continue")
    assert result.json()["result"]["said"] == ["first", "second", "third"]
    assert result.json()["metadata"]["continues"] == failed.task_id
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "not_continuable")


async def test_what_failed_is_kept_for_a_day_to_be_continued(served):
    task = new()
    failed = await served.serve("chain").submit({**task, "thread_id": None})
    day_ms = 86_400_000
    redis = served.client.redis
    for key in (f"agent:result:{failed.task_id}", f"rq:job:{failed.task_id}"):
        assert day_ms * 0.9 < await redis.pttl(key) <= day_ms
    kept = [key async for key in redis.scan_iter(match=f"*TASK--{failed.task_id}*")]
    assert kept
    await until(lambda: all_below(redis, kept, day_ms))


async def all_below(redis, keys, ms) -> bool:
    ttls = [await redis.pttl(key) for key in keys]
    return all(ms * 0.9 < ttl <= ms for ttl in ttls)

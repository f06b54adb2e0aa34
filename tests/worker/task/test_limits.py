"""One set of limits at every door: what a producer accepts, a worker runs; what is too long is refused by name."""

import asyncio
import json
from typing import TypedDict

import pytest
from click.testing import CliRunner
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq import Client
from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.errors import ErrorType, InvalidTaskError
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.settings import QueueSettings, TaskSettings
from langgraph_rq.shared.tasks import FUNCTION, State, Task, TaskLimits
from tests.fleet import one_node_graph, worker
from tests.gateways import gateway
from tests.waiting import until

INPUT_BYTES = 4_000_000
FRAME = len('{"text":""}')


class Text(TypedDict):
    text: str


def text_of(size_bytes: int, letter: str = "x") -> str:
    """A text that makes `{"text": ...}` an input of so many bytes."""
    return letter * ((size_bytes - FRAME) // len(letter.encode()))


async def echo(state: Text):
    return {"text": state["text"][-1:]}


ECHO = one_node_graph(echo, Text)


def document(task_id: str, text: str) -> dict:
    return {"task_id": task_id, "graph": "echo", "input": {"text": text}}


async def by_client(redis_url: str, task: dict) -> str | None:
    with Client(redis_url) as client:
        try:
            await asyncio.to_thread(client.submit_many, [task])
        except InvalidTaskError as error:
            return str(error)
    return None


async def by_command(redis_url: str, task: dict) -> str | None:
    arguments = ["submit", "--file", "-"]
    runner = CliRunner(env={"REDIS_URL": redis_url})
    done = await asyncio.to_thread(runner.invoke, main, arguments, input=json.dumps(task))
    return done.output if done.exit_code else None


async def by_http(redis_url: str, task: dict) -> str | None:
    async with gateway(redis_url) as http:
        escaped = json.dumps(task)  # as most clients write it
        response = await http.post("/tasks", content=escaped, headers={"Content-Type": "application/json"})
    return None if response.is_success else response.text


async def by_stock_rq(redis_url: str, task: dict) -> str | None:
    with Redis.from_url(redis_url) as redis, Client(redis_url) as client:
        Queue("agent_tasks", connection=redis, serializer=JSONSerializer).enqueue(
            FUNCTION, task, job_id=task["task_id"]
        )
        result = await until(lambda: client.result(task["task_id"]))
    return result.error.message if result.error and result.error.type is ErrorType.REJECTED else None


DOORS = (by_client, by_command, by_http, by_stock_rq)


@pytest.mark.parametrize("letter", ["x", "中"], ids=["ascii", "escaped"])
@pytest.mark.parametrize("door", DOORS)
async def test_longest_input_is_accepted_and_run_and_a_longer_one_refused_at_every_door(redis_url, door, letter):
    async with worker(redis_url, {"echo": ECHO}):
        assert await door(redis_url, document("longest", text_of(INPUT_BYTES, letter))) is None
        with Client(redis_url) as client:
            result = await asyncio.to_thread(client.wait, "longest", 30)
        refusal = await door(redis_url, document("longer", text_of(INPUT_BYTES + 3, letter)))
    assert (result.status, result.result) == (State.SUCCESS, {"text": letter})
    assert refusal
    assert "expected at most 4,000,000 bytes, got: 4,000,00" in refusal


@pytest.mark.parametrize("input_bytes", [100, 40_000, INPUT_BYTES])
def test_longest_task_with_every_field_is_short_enough_for_a_worker_to_fetch(input_bytes):
    limits = TaskLimits(input_bytes=input_bytes)
    longest = {
        "task_id": "i" * 128,
        "graph": "\\" * 256,
        "input": {"text": text_of(input_bytes)},
        "tenant": "t" * 32,
        "user_id": "\x01" * 256,
        "thread_id": "h" * 128,
        "metadata": {"x": "m" * (limits.metadata_bytes - 8)},
        "stream": ["custom", "messages", "updates", "values"],
        "traceparent": f"00-{'0' * 32}-{'0' * 16}-00",
    }
    assert input_bytes < len(Task.parse(longest, limits).job_data()) <= limits.job_bytes <= limits.text_bytes


def test_input_and_answers_that_are_too_long_together_are_refused():
    answers = {"answers": {"q": "x" * 3_000_000}}
    with pytest.raises(InvalidTaskError, match="resume: expected a task of at most 4,064,000 bytes"):
        Task.parse({"input": {"text": "x" * 3_000_000}, "resume": answers}, TaskLimits())


def test_settings_derive_every_limit_from_the_same_two():
    limits = TaskSettings(input_bytes=1_000_000, result_bytes=7).limits()
    assert (limits.input_bytes, limits.result_bytes) == (1_000_000, 7)
    assert QueueSettings().times(limits).job_bytes == 1_064_000
    assert limits.text_bytes == 2_064_000
    assert QueueSettings().times() == QueueTimes()
    assert TaskSettings().limits() == TaskLimits()


async def test_data_over_the_limit_of_a_task_of_ours_are_not_fetched_either(redis_url, redis_client):
    with Client(redis_url, tasks=TaskSettings(input_bytes=10_000_000)) as client:
        client.submit_many([document("too-long", text_of(5_000_000))])
        async with worker(redis_url, {"echo": ECHO}):
            result = await asyncio.to_thread(client.wait, "too-long", 30)
    assert result.error.type is ErrorType.REJECTED
    assert "at most 4,064,000 bytes (by LGRQ_INPUT_BYTES)" in result.error.message


async def test_result_may_be_as_long_as_the_input(redis_url):
    async def same(state: Text):
        return {"text": state["text"]}

    async with worker(redis_url, {"same": one_node_graph(same, Text)}):
        with Client(redis_url) as client:
            receipt = client.submit({"text": "x" * 3_990_000}, graph="same")
            result = await asyncio.to_thread(client.wait, receipt.task_id, 30)
    assert result.status is State.SUCCESS


async def test_worker_claims_nothing_while_the_inputs_of_its_tasks_take_too_much_memory(redis_url):
    running, release = set(), asyncio.Event()

    async def hold(state: Text):
        running.add(state["text"][:1])
        await release.wait()

    async with worker(redis_url, {"hold": one_node_graph(hold, Text)}, input_bytes=6_000_000) as graph_worker:
        with Client(redis_url) as client:
            receipts = client.submit_many([{"graph": "hold", "input": {"text": name * 3_500_000}} for name in "abcd"])
            await until(lambda: len(running) == 2)
            client.submit({"text": "z"}, graph="hold", priority="high")
            await until(lambda: graph_worker.in_flight == 2)
            assert running == {"a", "b"}
            release.set()
            for receipt in receipts:
                assert (await asyncio.to_thread(client.wait, receipt.task_id, 30)).status is State.SUCCESS

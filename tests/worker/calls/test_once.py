"""`guarded(name, once=True)`: a function is not called again when its node runs again."""

import asyncio
import inspect
from typing import Annotated, Any

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolRuntime
from langgraph.types import RetryPolicy, interrupt
from redis import Redis

from langgraph_rq import Client, OutcomeUnknown, ToolError
from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.tasks import State
from langgraph_rq.worker.calls.tools import guarded
from langgraph_rq.worker.records import ledger as ledger_module
from langgraph_rq.worker.records.ledger import Ledger, ledger_key
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from tests.fleet import one_node_graph, worker
from tests.model_calls import Said
from tests.waiting import Gate

WAIT_S = 30
RETRY = RetryPolicy(max_attempts=2, initial_interval=0.01, retry_on=Exception)


class Bank(Gate):
    """Counts what really happened, and holds up the first run of its node."""

    def __init__(self) -> None:
        super().__init__()
        self.refunds: list[Any] = []


@pytest.fixture
def bank():
    return Bank()


@pytest.fixture
def refund(bank):
    @guarded("refund", once=True)
    async def refund(order: int, amount: int = 1) -> str:
        bank.refunds.append(order)
        return f"refunded {order} ({len(bank.refunds)})"

    return refund


@pytest.fixture
def run_again(redis_url, bank):
    """Run a node, hand its task back when it is held up, and run it in another worker."""

    async def run_node(node, *, between=None, **options: Any):
        graphs = {"g": one_node_graph(node, Said)}
        options = {"checkpoints": True, **options}
        with Client(redis_url) as client:
            async with worker(redis_url, graphs, drain_s=0, **options):
                task_id = client.submit({"text": "hello"}, graph="g").task_id
                await asyncio.wait_for(bank.reached.wait(), WAIT_S)
            if between:
                between()
            async with worker(redis_url, graphs, **options):
                return await asyncio.to_thread(client.wait, task_id, WAIT_S)

    return run_node


@pytest.fixture
def run_task(redis_url):
    async def run_graph(node, *, retry=None, **fields: Any):
        builder = StateGraph(Said).add_node("node", node, retry_policy=retry)
        graph = builder.add_edge(START, "node").add_edge("node", END).compile()
        async with worker(redis_url, {"g": graph}, checkpoints=True):
            with Client(redis_url) as client:
                task_id = client.submit({"text": "hello"}, graph="g", **fields).task_id
                return await asyncio.to_thread(client.wait, task_id, WAIT_S)

    return run_graph


async def test_node_that_runs_again_gets_the_recorded_result(run_again, bank, refund, redis_client):
    async def node(_state):
        said = [await refund(7), await refund(8), await refund(7)]
        await bank.hold_first()
        return {"text": ", ".join(said)}

    result = await run_again(node)
    assert result.result["text"] == "refunded 7 (1), refunded 8 (2), refunded 7 (3)"
    assert (bank.refunds, bank.runs) == ([7, 8, 7], 2)
    assert redis_client.keys("agent:ledger:*") == []  # the checkpoint is saved


async def test_sync_tool_in_a_sync_node_is_called_once(run_task, bank):
    @guarded("refund", once=True)
    def refund(order: int) -> str:
        bank.refunds.append(order)
        return f"refunded {order}"

    def node(_state):
        said = refund(order=7)
        bank.runs += 1
        if bank.runs == 1:
            raise ConnectionResetError
        return {"text": said}

    result = await run_task(node, retry=RETRY)
    assert (result.result, bank.refunds, bank.runs) == ({"text": "refunded 7"}, [7], 2)


async def test_other_arguments_are_another_call(run_again, bank, refund):
    async def node(_state):
        said = await refund(7, amount=bank.runs)
        await bank.hold_first()
        return {"text": said}

    await run_again(node)
    assert bank.refunds == [7, 7]


async def test_retries_of_the_node_and_of_the_task_find_the_recorded_result(run_task, bank, refund):
    async def node(_state):
        said = await refund(7)
        bank.runs += 1
        if bank.runs < 4:
            raise ConnectionResetError
        return {"text": said}

    result = await run_task(node, retry=RETRY, max_attempts=2)
    assert (result.result, bank.refunds, bank.runs) == ({"text": "refunded 7 (1)"}, [7], 4)


async def test_call_that_was_cut_off_is_not_made_again(run_again, bank):
    keys = []

    @guarded("refund", once=True)
    async def refund(order: int) -> str:
        bank.refunds.append(order)
        await bank.hold_first()
        return "done"

    async def node(_state):
        try:
            return {"text": await refund(7)}
        except OutcomeUnknown as unknown:
            keys.append(unknown.key)
            raise

    result = await run_again(node)
    assert (result.status, result.error.type, bank.refunds) == (State.ERROR, "tool_error", [7])
    assert keys[0] in result.error.message


async def test_call_whose_service_takes_the_key_is_made_again_with_the_same_key(run_again, bank):
    @guarded("refund", once=True)
    async def refund(order: int, *, idempotency_key: str) -> str:
        bank.refunds.append((order, idempotency_key))
        await bank.hold_first()
        return "done"

    async def node(_state):
        return {"text": await refund(7)}

    result = await run_again(node)
    assert result.result == {"text": "done"}
    assert len(bank.refunds) == 2
    assert len(set(bank.refunds)) == 1


async def test_call_that_raised_may_have_been_made(run_task, bank):
    @guarded("refund", once=True)
    async def refund(order: int) -> str:
        bank.refunds.append(order)
        raise httpx.ReadError("the answer was cut off")

    async def node(_state):
        return {"text": await refund(7)}

    result = await run_task(node, retry=RETRY)
    assert (result.error.type, bank.refunds) == ("tool_error", [7])
    assert "find out whether it was made" in result.error.message


@pytest.mark.parametrize("takes_key", [False, True])
async def test_node_that_tries_again_by_itself_tries_the_same_call(run_task, bank, takes_key):
    def pay(key: str) -> None:
        bank.refunds.append(key)
        if len(bank.refunds) == 1:
            raise httpx.ReadError("the answer was cut off")

    @guarded("refund", once=True)
    async def refund(order: int) -> None:
        pay("")

    @guarded("refund", once=True)
    async def keyed_refund(order: int, idempotency_key: str) -> None:
        pay(idempotency_key)

    async def node(_state):
        said = []
        for _ in range(3):
            try:
                await (keyed_refund if takes_key else refund)(7)
                said.append("done")
            except ToolError as error:
                said.append(type(error).__name__)
        return {"text": ", ".join(said)}

    result = await run_task(node)
    if takes_key:
        first, again, other = bank.refunds
        assert (result.result["text"], first == again != other) == ("ToolError, done, done", True)
    else:
        assert (result.result["text"], len(bank.refunds)) == ("ToolError, OutcomeUnknown, OutcomeUnknown", 1)


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://bank")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), refused(409)])
async def test_call_that_was_certainly_not_made_is_made_later(run_task, bank, error):
    @guarded("refund", once=True)
    async def refund(order: int) -> str:
        bank.refunds.append(order)
        if len(bank.refunds) == 1:
            raise error
        return "done"

    async def node(_state):
        return {"text": await refund(7)}

    result = await run_task(node, retry=RETRY)
    assert (result.result, bank.refunds) == ({"text": "done"}, [7, 7])


async def test_question_inside_a_call_and_behind_one_leave_it_made_once(redis_url, bank, refund):
    @guarded("refund", once=True)
    async def approved_refund(order: int) -> str:
        answer = interrupt("may I?")
        bank.refunds.append(order)
        return f"{answer}: done"

    async def node(_state):
        said = [await refund(6), await approved_refund(7)]
        interrupt("is that all?")
        return {"text": ", ".join(said)}

    async with worker(redis_url, {"g": one_node_graph(node, Said)}, checkpoints=True):
        with Client(redis_url) as client:
            task_id = client.submit({"text": "hello"}, graph="g").task_id
            for answer in ("yes", "it is"):
                assert (await asyncio.to_thread(client.wait, task_id, WAIT_S)).status is State.INTERRUPTED
                task_id = client.resume(task_id, answer).task_id
            result = await asyncio.to_thread(client.wait, task_id, WAIT_S)
    assert (result.result, bank.refunds) == ({"text": "refunded 6 (1), yes: done"}, [6, 7])


class Receipt:
    """Nothing that a checkpoint can hold."""


async def test_result_that_cannot_be_kept_is_given_once(run_again, bank, lines):
    @guarded("refund", once=True)
    async def refund(order: int) -> Any:
        bank.refunds.append(order)
        return Receipt()

    async def node(_state):
        assert isinstance(await refund(7), Receipt)
        await bank.hold_first()
        return {"text": "done"}

    result = await run_again(node)
    assert (result.error.type, bank.refunds) == ("tool_error", [7])
    assert "was made, but its result" in result.error.message
    assert [line["reason"] for line in lines.named("call.not_kept")] == ["RefusedStateError"]


async def test_results_are_encrypted_as_checkpoints_are(run_again, bank, refund, redis_url):
    async def node(_state):
        said = await refund(7)
        await bank.hold_first()
        return {"text": said}

    kept = []

    def look():
        with Redis.from_url(redis_url) as redis:
            kept.extend(value for key in redis.keys("agent:ledger:*") for value in redis.hvals(key))

    result = await run_again(node, between=look, serializer=StateSerializer(StateKeys.parse("x" * 32)))
    assert (result.status, bank.refunds, len(kept)) == (State.SUCCESS, [7], 1)
    assert b"refunded" not in kept[0]


async def test_arguments_that_are_no_plain_data_are_refused(run_task, bank):
    @guarded("refund", once=True)
    async def refund(order: Any) -> str:
        bank.refunds.append(order)
        return "done"

    async def node(_state):
        return {"text": await refund(Receipt())}

    result = await run_task(node)
    assert "expected the arguments of 'refund' to be plain data" in result.error.message
    assert bank.refunds == []


async def test_without_checkpoints_nothing_is_called(redis_url, bank, refund):
    async def node(_state):
        return {"text": await refund(7)}

    async with worker(redis_url, {"g": one_node_graph(node, Said)}):
        with Client(redis_url) as client:
            task_id = client.submit({"text": "hello"}, graph="g").task_id
            result = await asyncio.to_thread(client.wait, task_id, WAIT_S)
    assert "LGRQ_CHECKPOINTS=true" in result.error.message
    assert bank.refunds == []


async def test_full_ledger_starts_no_further_call(run_task, bank, refund, monkeypatch):
    monkeypatch.setattr(ledger_module, "MOST_CALLS", 1)

    async def node(_state):
        return {"text": await refund(7) + await refund(8)}

    result = await run_task(node)
    assert (result.status, bank.refunds) == (State.ERROR, [7])


async def test_worker_that_lost_its_task_records_only_what_it_has_reserved(aredis, redis_client):
    mine = Ledger("thread", StateSerializer())
    redis_client.hset(ledger_key("thread"), mapping={"kept": "zombie", "taken": "successor"})
    ends = [await run(aredis, mine.end_call(key, "zombie", b"done")) for key in ("kept", "taken", "gone", "kept")]
    assert ends == [True, False, False, True]  # the last as if the reply of the first had been lost
    assert redis_client.hgetall(ledger_key("thread")) == {"kept": "zombie\ndone", "taken": "successor"}


def test_callers_and_models_do_not_see_the_key():
    @tool
    @guarded("refund", once=True)
    async def refund(order: int, idempotency_key: str) -> str:
        """Refund an order."""
        return f"{order} {idempotency_key}"

    assert list(refund.args) == ["order"]
    assert list(inspect.signature(refund.coroutine).parameters) == ["order"]


async def test_outside_of_a_worker_the_function_runs_with_a_new_key_each_time():
    @guarded("refund", once=True)
    async def refund(order: int, idempotency_key: str) -> str:
        return idempotency_key

    assert await refund(1) != await refund(1)


async def test_what_langchain_injects_is_no_argument(run_again, bank):
    @tool
    @guarded("refund", once=True)
    async def refund(
        order: int, call_id: Annotated[str, InjectedToolCallId], config: RunnableConfig, runtime: ToolRuntime
    ) -> str:
        """Refund an order."""
        bank.refunds.append(order)
        return "done"

    async def node(_state):
        runtime = ToolRuntime({}, None, {}, lambda _: None, str(bank.runs), None)
        call = {"order": 7, "runtime": runtime}
        said = await refund.ainvoke({"type": "tool_call", "name": "refund", "id": f"call-{bank.runs}", "args": call})
        await bank.hold_first()
        return {"text": said.content}

    result = await run_again(node)
    assert (result.result, bank.refunds) == ({"text": "done"}, [7])

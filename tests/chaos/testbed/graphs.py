"""The graphs of the chaos runs. Each node writes its start and end to the history and makes one guarded model call."""

import asyncio
import operator
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import openai
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from langgraph_rq.worker.calls.guarded_model import guarded_chat_model
from langgraph_rq.worker.calls.model_call import CallLimits
from langgraph_rq.worker.guards.task_guard import current_task
from tests.chaos.checking.history import record
from tests.chaos.testbed.instrument import GATE, install, reach

NODES = ("one", "two", "three", "four")
SINGLE = ("one",)
FLAKY = ("one", "two")
"""Nodes that the graphs list when they have finished: flaky and chain those named alike, slow those of chain, others
that of single."""
OUTPUT_TOKENS = 64
FAN_OUT = 200


class Steps(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    text: str


_LONG_S = 60.0
_GATE_LOOK_S = 0.02
BLOCK_S = "CHAOS_BLOCK_S"
"""Environment variable: how long the node of `blocker` blocks."""


LAST_S = "CHAOS_LAST_S"
"""Environment variable: how long the second node of `lasting` takes."""


class FailedOnPurposeError(Exception):
    """A failure that another attempt repairs."""


MODEL = guarded_chat_model(
    ChatOpenAI(
        model="gpt-4o-mini",
        api_key=os.environ.get("OPENAI_API_KEY", "offline"),
        max_tokens=OUTPUT_TOKENS,
        http_client=openai.DefaultHttpxClient(verify=False),
        http_async_client=openai.DefaultAsyncHttpxClient(verify=False),
    )
)
"""Made before the workers are forked: it has no connection yet, and making it takes a third of a second."""


def _unchanged(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o-mini",
        api_key=os.environ.get("OPENAI_API_KEY", "offline"),
        http_client=MODEL.http_client,
        http_async_client=MODEL.http_async_client,
        max_retries=0,  # the checker would take the SDK's own retries for calls that were not admitted
        **options,
    )


UNCHANGED = _unchanged()
"""As graphs have it that know nothing of the guards: without an output limit."""


SECOND = guarded_chat_model(
    ChatOpenAI(
        model="gpt-4o",
        api_key=os.environ.get("OPENAI_API_KEY", "offline"),
        max_tokens=OUTPUT_TOKENS,
        http_client=MODEL.http_client,
        http_async_client=MODEL.http_async_client,
    ),
    limits=CallLimits(attempts=1, timeout_s=15.0),
)
"""A model with a breaker of its own."""


IMPATIENT = _unchanged(timeout=2.0)
"""Gives up a call after 2 s."""


def _node(name: str, model: ChatOpenAI = MODEL, pays_first: ChatOpenAI | None = None) -> Any:
    async def run(_state: Steps) -> Steps:
        install({})  # the process of an isolated task is not instrumented yet
        task = current_task.get()
        assert task
        assert task.task_id
        record("start", task.task_id, task.epoch, detail=name)
        reach(f"before-{name}")
        if pays_first:
            await pays_first.ainvoke(f"{task.task_id} first {task.epoch} {task.worker}")
        await model.ainvoke(f"{task.task_id} {name} {task.epoch} {task.worker}")
        reach(f"after-{name}")
        record("end", task.task_id, task.epoch, detail=name)
        return {"steps": [name]}

    return run


async def _need_no_model(_state: Steps) -> Steps:
    return {"steps": ["one"]}


async def _end_the_process(_state: Steps) -> Steps:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


async def _block_the_loop(_state: Steps) -> Steps:
    task = current_task.get()
    assert task
    record("struck", task.task_id or "", task.epoch, detail="blocks the event loop")
    time.sleep(float(os.environ[BLOCK_S]))  # noqa: ASYNC251 - the fault
    return {}


async def _last(_state: Steps) -> Steps:
    await asyncio.sleep(float(os.environ[LAST_S]))
    return {}


async def _hold(_state: Steps) -> Steps:
    gate = os.environ.get(GATE)
    while gate and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - another process makes the file
        await asyncio.sleep(_GATE_LOOK_S)
    return {}


async def _fail_at_first(_state: Steps) -> Steps:
    task = current_task.get()
    assert task
    if task.epoch == 1:
        raise FailedOnPurposeError
    return {}


async def _wait_at_first(_state: Steps) -> Steps:
    task = current_task.get()
    assert task
    if task.epoch == 1:
        await asyncio.sleep(_LONG_S)
    return {}


def _chain(*nodes: tuple[str, Any]) -> Any:
    graph = StateGraph(Steps)
    last = START
    for name, node in nodes:
        graph.add_node(name, node)
        graph.add_edge(last, name)
        last = name
    return graph.add_edge(last, END)


async def _leaf(leaf: dict[str, int]) -> Steps:
    task = current_task.get()
    assert task
    await UNCHANGED.ainvoke(f"{task.task_id} leaf-{leaf['number']} {task.epoch} {task.worker}")
    return {}


def _fan_out(_state: Steps) -> list[Send]:
    return [Send("leaf", {"number": number}) for number in range(FAN_OUT)]


def _wide() -> Any:
    graph = StateGraph(Steps).add_node("leaf", _leaf).add_node("one", _node("one", UNCHANGED))
    graph.add_conditional_edges(START, _fan_out, ["leaf"])
    return graph.add_edge("leaf", "one").add_edge("one", END)


wide = _wide()
unchanged = _chain(("one", _node("one", UNCHANGED)))
impatient = _chain(("one", _node("one", IMPATIENT)))
chain = _chain(*((name, _node(name)) for name in NODES))
single = _chain(("one", _node("one")))
killer = _chain(("one", _node("one")), ("end", _end_the_process))
blocker = _chain(("one", _node("one")), ("block", _block_the_loop))
held = _chain(("one", _node("one")), ("hold", _hold))
lasting = _chain(("one", _node("one")), ("last", _last))
flaky = _chain(("one", _node("one")), ("fail", _fail_at_first), ("two", _node("two")))
needs_second = _chain(("one", _node("one", SECOND)))
pays_first = _chain(("one", _node("one", SECOND, MODEL)))
plain = _chain(("one", _need_no_model))
slow = _chain(("wait", _wait_at_first), *((name, _node(name)) for name in NODES))

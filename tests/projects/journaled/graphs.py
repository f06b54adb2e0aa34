"""Graphs whose node calls models and tools, and whose process is killed before the node's checkpoint."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from langgraph_rq import OutcomeUnknown, guarded, guarded_chat_model

chat = ChatOpenAI(model="gpt-4o-mini", max_tokens=100)
guarded_chat = guarded_chat_model(chat)


def _merged(left: dict[str, str], right: dict[str, str]) -> dict[str, str]:
    return {**left, **right}


class Asked(TypedDict, total=False):
    folder: str
    answers: Annotated[dict[str, str], _merged]


def die_once(folder: str, node: str, *others: str) -> None:
    """Kill this process when `node` and the `others` have come here; do nothing in a process that came after it."""
    place = Path(folder)
    if (place / "died").exists():
        return
    (place / node).touch()
    while not all((place / other).exists() for other in others):
        time.sleep(0.01)
    (place / "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)


async def ask(state: Asked) -> dict[str, Any]:
    invoked, streamed = await asyncio.gather(chat.ainvoke("async, invoked"), _text(chat.astream("async, streamed")))
    by_guarded = [
        await guarded_chat.ainvoke("guarded, invoked"),
        await _text(guarded_chat.astream("guarded, streamed")),
    ]
    answers = {
        "invoked": invoked.content,
        "streamed": streamed,
        "guarded": by_guarded[0].content,
        "both": by_guarded[1],
    }
    await asyncio.to_thread(die_once, state["folder"], "ask", "ask_sync")
    return {"answers": answers}


def ask_sync(state: Asked) -> dict[str, Any]:
    answers = {
        "sync invoked": chat.invoke("sync, invoked").content,
        "sync streamed": "".join(str(chunk.content) for chunk in chat.stream("sync, streamed")),
    }
    die_once(state["folder"], "ask_sync", "ask")
    return {"answers": answers}


async def _text(chunks: Any) -> str:
    return "".join([str(chunk.content) async for chunk in chunks])


builder = StateGraph(Asked).add_node("ask", ask).add_node("ask_sync", ask_sync)
for name in ("ask", "ask_sync"):
    builder.add_edge(START, name).add_edge(name, END)
asker = builder.compile()


class Paid(TypedDict, total=False):
    folder: str
    said: list[str]


def _pay(folder: str, order: str, key: str = "") -> str:
    with Path(folder, "paid").open("a") as paid:
        paid.write(f"{order} {key}\n")
    if order == "second":
        die_once(folder, "pay")
    return f"paid {order}"


pay = guarded("pay", once=True)(_pay)


@guarded("pay", once=True)
def pay_with_key(folder: str, order: str, idempotency_key: str) -> str:
    return _pay(folder, order, idempotency_key)


def pay_both(state: Paid) -> dict[str, Any]:
    said = [pay(state["folder"], "first")]
    try:
        said.append(pay(state["folder"], "second"))
    except OutcomeUnknown as unknown:
        said.append(type(unknown).__name__)
    return {"said": said}


def pay_both_with_key(state: Paid) -> dict[str, Any]:
    return {"said": [pay_with_key(state["folder"], order) for order in ("first", "second")]}


payer = StateGraph(Paid).add_node("pay", pay_both).add_edge(START, "pay").add_edge("pay", END)
keyed_payer = StateGraph(Paid).add_node("pay", pay_both_with_key).add_edge(START, "pay").add_edge("pay", END)

"""A conversation with each graph, whose worker is killed in the middle, goes on as if nothing had happened."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import pytest_asyncio

from langgraph_rq import AsyncClient
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.run_fields import StreamMode
from tests.installation import ROOT, WorkerProcess, start_worker
from tests.langgraph.bench import Bare, NodeStarts, Seen, plain, streamed
from tests.langgraph.suite import CASES
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CONVERSATIONS = [name for name, case in CASES.items() if not case.forgets]
WAIT_S = 120.0


@dataclass
class Expected:
    """A conversation with LangGraph alone."""

    turns: list[Seen]
    state: Any
    updates: list
    """That the killed turn streams."""
    stands_at: int
    """The start of a node, of those in the killed turn, in the middle."""

    @property
    def calls(self) -> Counter[str]:
        return sum((turn.calls for turn in self.turns), Counter())


@dataclass
class Found:
    """The same conversation through workers, of which the first is killed."""

    thread_id: str
    turns: list[TaskResult] = field(default_factory=list)
    state: Any = None
    updates: list = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)


def killed_turn(name: str) -> int:
    return len(CASES[name].turns) // 2


async def alone(name: str) -> Expected:
    bare, starts = Bare(CASES[name].graph), NodeStarts()
    bare.config["callbacks"] = [starts]
    turns, counts = [], []
    for turn in CASES[name].turns:
        turns.append(await bare.run(turn))
        counts.append(starts.counts.total() - sum(counts))
    snapshot = await bare.graph.aget_state(bare.config)
    state = [snapshot.values, list(snapshot.next), [one.value for one in snapshot.interrupts]]
    streaming = Bare(CASES[name].graph)
    streams = [await streaming.stream(turn, [StreamMode.UPDATES], name, "t") for turn in CASES[name].turns]
    updates = streams[killed_turn(name)].parts.get("updates", [])
    return Expected(turns, streamed(state), each_once(updates), counts[killed_turn(name)] // 2 + 1)


def each_once(updates: list) -> list:
    """Updates in any order, for nodes side by side, and once: LangGraph shows again, as cached, what one beside the
    killed node had done."""
    known = [[namespace, {**data, "__metadata__": None}] for namespace, data in updates]
    return sorted({json.dumps(streamed(one)) for one in known})


@contextmanager
def suite_worker(folder: Path, redis_url: str) -> Iterator[WorkerProcess]:
    folder.mkdir()
    config = folder / "langgraph.json"
    config.write_text(json.dumps({"graphs": {name: f"tests.langgraph.standing:{name}" for name in CONVERSATIONS}}))
    environment = {"REDIS_URL": redis_url, "STANDING": str(folder.parent), "PYTHONPATH": str(ROOT)}
    with start_worker(folder, environment, "--config", str(config)) as worker:
        yield worker


async def converse(client: AsyncClient, name: str, found: Found, folder: Path, stands_at: int) -> None:
    """Take the turns of a conversation; its state is read at the end."""
    for number, turn in enumerate(CASES[name].turns):
        if number == killed_turn(name):
            (folder / found.thread_id).write_text(str(stands_at))
        given = {"input": None, "graph": name, "thread_id": found.thread_id, "stream": ["updates"], **turn}
        receipt = await client.submit(**given, stream_subgraphs=True)
        found.turns.append(await client.wait(receipt.task_id, WAIT_S))
        if number == killed_turn(name):
            events = [event.data async for event in client.events(receipt.task_id) if event.type == "updates"]
            found.updates = each_once([[data.get("namespace", []), data["data"]] for data in events])
    state = await client.threads.state(found.thread_id, graph=name)
    found.state = streamed([state["values"], state["next"], [one["value"] for one in state["interrupts"]]])


def standing(folder: Path) -> int:
    return len([*folder.glob("*.stands")])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expected() -> dict[str, Expected]:
    return {name: await alone(name) for name in CONVERSATIONS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory, expected) -> dict[str, Found]:
    """All conversations at once. Each stands still in the same worker, which is killed, and another one goes on."""
    folder = tmp_path_factory.mktemp("standing")
    conversations = {name: Found(f"thread-{number}") for number, name in enumerate(CONVERSATIONS)}
    with EmbeddedRedis(tcp=True) as redis, suite_worker(folder / "first", redis.url) as first:
        await asyncio.to_thread(first.wait_until_ready)
        async with AsyncClient(redis.url) as client:
            conversing = asyncio.gather(
                *(
                    converse(client, name, found, folder, expected[name].stands_at)
                    for name, found in conversations.items()
                )
            )
            await until(lambda: standing(folder) == len(conversations) or conversing.done(), WAIT_S)
            with suite_worker(folder / "second", redis.url) as second:
                await asyncio.to_thread(second.wait_until_ready)
                assert first.end(SIGKILL) == -SIGKILL
                await conversing
    calls = [line.split(maxsplit=1) for line in (folder / "calls").read_text().splitlines()]
    for found in conversations.values():
        found.calls = Counter(call for thread, call in calls if thread == found.thread_id)
    return conversations


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_graph_that_was_killed_answers_as_it_does_with_langgraph_alone(expected, found, name):
    for turn, result in zip(expected[name].turns, found[name].turns, strict=True):
        if turn.error:
            assert turn.error.splitlines()[0] in result.error.message
        else:
            assert (result.error, plain(result.result)) == (None, turn.output)
    assert found[name].state == expected[name].state
    assert found[name].calls == expected[name].calls
    assert found[name].updates == expected[name].updates


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_kill_hit_the_turn_that_it_was_to_hit(found, name):
    attempts = [result.metadata.attempts for result in found[name].turns]
    assert attempts == [2 if number == killed_turn(name) else 1 for number in range(len(attempts))]

"""A thread that is used does not forget its beginning, and one that is not used any more expires as a whole."""

from typing import Annotated, TypedDict

import pytest
import pytest_asyncio
from langgraph.channels import DeltaChannel

from tests.langgraph.bench import Bench, bench, chain

pytestmark = pytest.mark.asyncio(loop_scope="module")

TURNS = 45
"""With three checkpoints each, more than the 100 that a thread keeps."""
WEEK_MS = 7 * 24 * 3_600_000


def extend(items: list[str], writes: list[list[str]]) -> list[str]:
    return [*items, *(one for write in writes for one in write)]


class Deltas(TypedDict, total=False):
    messages: Annotated[list[str], DeltaChannel(extend)]
    files: Annotated[list[str], DeltaChannel(extend)]


async def reply(state: Deltas) -> Deltas:
    return {"messages": [f"reply {len(state['messages'])}"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, {"deltas": chain(Deltas, reply)}) as running:
        yield running


async def test_delta_channel_of_a_long_thread_is_rebuilt_from_its_first_checkpoint(served: Bench):
    redis, conversation = served.client.redis, served.serve("deltas")
    keys = [f"agent:thread_{part}:{conversation.thread_id}" for part in ("state", "index")]
    first = await conversation.run({"input": {"messages": ["turn 0"], "files": ["notes"]}})
    assert first.error is None
    for number in range(1, TURNS):
        for key in keys:
            assert await redis.pexpire(key, 60_000)  # nearly a week without a task
        last = await conversation.run({"input": {"messages": [f"turn {number}"]}})
        expires = {await redis.pexpiretime(key) for key in keys}
        assert len(expires) == 1
        assert await redis.pttl(keys[0]) > WEEK_MS - 60_000
    said = [word for number in range(TURNS) for word in (f"turn {number}", f"reply {2 * number + 1}")]
    assert last.output == {"messages": said, "files": ["notes"]}
    assert (await conversation.state())["values"] == last.output
    own = [key.decode() async for key in redis.scan_iter(match=f"*{conversation.thread_id}*")]
    listed = {f"agent:thread_{part}:{conversation.thread_id}" for part in ("row", "runs", "records")}
    assert {key for key in own if key.startswith("agent:thread_")} - listed == {*keys}

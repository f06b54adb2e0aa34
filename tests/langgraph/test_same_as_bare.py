"""Every graph answers through a worker with default settings as it does with LangGraph alone.

Compared are, turn by turn, the output or the error, the state that the thread is left with, and the number of calls of
models, tools and nodes.
"""

import pytest
import pytest_asyncio

from langgraph_rq.shared.tasks import State
from tests.langgraph.bench import Bare, Bench, bench, forget
from tests.langgraph.suite import CASES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, {name: case.graph for name, case in CASES.items()}) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
async def test_graph_answers_as_it_does_with_langgraph_alone(served: Bench, name: str):
    case = CASES[name]
    bare, conversation = Bare(case.graph), served.serve(name)
    for turn in case.turns:
        expected, seen = await bare.run(turn), await conversation.run(turn)
        if expected.error:
            assert case.fails
            assert expected.error.splitlines()[0] in (seen.error or "nothing")
        else:
            assert (seen.error, seen.output) == (None, expected.output)
        assert seen.calls == expected.calls
        assert await conversation.state() == await bare.state()
    assert case.fails == (conversation.last.status is State.ERROR)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.keeps])
async def test_graph_without_a_thread_answers_so_too(served: Bench, name: str):
    case = CASES[name]
    expected = await Bare(case.graph).run(case.turns[0])
    seen = await served.serve(name).run(case.turns[0], thread_id=None)
    if expected.error:
        assert expected.error.splitlines()[0] in (seen.error or "nothing")
    else:
        assert (seen.error, seen.output) == (None, expected.output)
    assert seen.calls == expected.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if not (case.fails or case.forgets or case.keeps)]
)
async def test_task_that_runs_again_after_its_last_checkpoint_pays_nothing_and_answers_the_same(
    served: Bench, name: str
):
    case = CASES[name]
    conversation = served.serve(name)
    for number, turn in enumerate(case.turns):
        task_id = f"again-{conversation.thread_id}-{number}"
        first = await conversation.run(turn, task_id=task_id)
        state, status = await conversation.state(), conversation.last.status
        await forget(served.client.redis, task_id, conversation.thread_id)
        again = await conversation.run(turn, task_id=task_id)
        assert (conversation.last.status, again.error, again.output) == (status, None, first.output)
        assert await conversation.state() == state
        if status is State.SUCCESS:
            assert not again.calls


async def test_suite_is_broad():
    assert len(CASES) >= 60

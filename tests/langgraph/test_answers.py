"""Questions in a subgraph, of nodes side by side and of a tool are answered by a plain value and by id."""

import pytest
import pytest_asyncio

from langgraph_rq import InvalidTaskError
from langgraph_rq.shared.tasks import State
from tests.langgraph.bench import Bare, Bench, bench, plain
from tests.langgraph.suite import CASES

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWERS = {
    "question in a subgraph": ["free form"],
    "questions side by side": [1, {"two": 2}],
    "tool that asks": ["yes"],
    "entrypoint that asks": ["fine"],
}
"""In the order in which the questions are shown."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(redis_server):
    async with bench(redis_server.url, {name: CASES[name].graph for name in ANSWERS}) as running:
        yield running


def by_id(result, answers):
    return dict(zip((one["id"] for one in result["__interrupt__"]), answers, strict=True))


@pytest.mark.parametrize("door", ["command", "resume", "resume without a thread"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_questions_are_answered_by_id(served: Bench, name, door):
    question, answers = CASES[name].turns[0], ANSWERS[name]
    bare, conversation = Bare(CASES[name].graph), served.serve(name)
    asked = await bare.run(question)
    interrupts = (await bare.graph.aget_state(bare.config)).interrupts
    ids = dict(zip((one.id for one in interrupts), answers, strict=True))
    expected = await bare.run({"command": {"resume": ids}})
    shown = await conversation.run(question, **({"thread_id": None} if "without" in door else {}))
    assert shown.output == asked.output
    given = by_id(conversation.last.result, answers)
    if door == "command":
        found = await conversation.run({"command": {"resume": given}})
        assert (found.error, found.output) == (None, expected.output)
    else:
        resumed = await served.client.resume(conversation.last.task_id, answers=given)
        result = await served.client.wait(resumed.task_id, 60)
        assert (result.error, plain(result.result)) == (None, expected.output)


@pytest.mark.parametrize("name", [name for name, answers in ANSWERS.items() if len(answers) == 1])
async def test_one_question_is_answered_by_a_plain_value(served: Bench, name):
    (answer,) = ANSWERS[name]
    bare, by_command, by_resume = Bare(CASES[name].graph), served.serve(name), served.serve(name)
    for one in (bare, by_command, by_resume):
        await one.run(CASES[name].turns[0])
    expected = await bare.run({"command": {"resume": answer}})
    assert (await by_command.run({"command": {"resume": answer}})).output == expected.output
    resumed = await served.client.resume(by_resume.last.task_id, answer)
    assert plain((await served.client.wait(resumed.task_id, 60)).result) == expected.output


async def test_plain_value_for_several_questions_is_refused_as_by_langgraph(served: Bench):
    bare, conversation = Bare(CASES["questions side by side"].graph), served.serve("questions side by side")
    for one in (bare, conversation):
        await one.run(CASES["questions side by side"].turns[0])
    asked = conversation.last.task_id
    assert "interrupt id" in ((await bare.run({"command": {"resume": 1}})).error or "")
    assert "interrupt id" in ((await conversation.run({"command": {"resume": 1}})).error or "")
    assert conversation.last.status is State.ERROR
    with pytest.raises(InvalidTaskError, match="answers by interrupt id"):
        await served.client.resume(asked, 1)

"""A task that asks a person, and the task that goes on with the answer: exactly once, whatever dies between."""

import asyncio
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from langgraph_rq import AlreadyAnsweredError, InvalidTaskError, NotInterruptedError, UnknownTaskError
from langgraph_rq.producer.client.resume import INTERRUPT
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.attempts import claim_call, release_call
from langgraph_rq.shared.queue.keys import graph_list, task_hash
from langgraph_rq.shared.queue.upkeep import leave_call, renew_call
from langgraph_rq.shared.queue.verbs import QueueTimes
from langgraph_rq.shared.tasks import State
from tests.fleet import ended, worker
from tests.waiting import until


class Order(TypedDict):
    said: Annotated[list, lambda old, new: old + new]


def graph(*nodes):
    """A graph whose nodes run side by side."""
    builder = StateGraph(Order)
    for node in nodes:
        builder.add_node(node.__name__, node)
        builder.add_edge(START, node.__name__)
        builder.add_edge(node.__name__, END)
    return builder.compile()


async def ask_once(_state):
    return {"said": [interrupt("how many?")]}


async def ask_twice(_state):
    return {"said": [interrupt("how many?"), interrupt("how many?")]}


async def ask_unless_told(state):
    return {"said": ["done" if "told" in state["said"] else interrupt("how many?")]}


async def ask_size(_state):
    return {"said": [("size", interrupt("which size?"))]}


async def ask_colour(_state):
    return {"said": [("colour", interrupt("which colour?"))]}


@pytest.fixture
def serving(redis_url):
    def serve(*nodes, **options):
        served = graph(*nodes) if callable(nodes[0]) else nodes[0]
        return worker(redis_url, {"g": served}, checkpoints=True, **options)

    return serve


async def hand_back(redis, graph):
    """Claim a task and give it back before anything of it has run, as a worker does that drains."""
    times = QueueTimes()
    await scripts.run(redis, renew_call("w", 60_000, ["agent_tasks"], {graph: "{}"}, join=True))
    claim = await scripts.run(redis, claim_call("w", 1, ["agent_tasks"], graph_list([graph]), times))
    (claimed,) = claim.tasks
    assert await scripts.run(redis, release_call(claimed.id, claimed.epoch, "agent_tasks", "w"))
    assert await scripts.run(redis, leave_call("w")) == 0


def open_questions(result) -> dict:
    return {question["value"]: question["id"] for question in result.result[INTERRUPT]}


@pytest.mark.parametrize("thread_id", [None, "th"])
async def test_answer_goes_on_with_the_thread(client, serving, thread_id):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g", thread_id=thread_id).task_id
        assert (await ended(client, asked)).status is State.INTERRUPTED
        result = await ended(client, client.resume(asked, 3).task_id)
    assert (result.status, result.result) == (State.SUCCESS, {"said": [3]})


async def test_same_answer_again_is_the_same_task(client, serving):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        first = client.resume(asked, 3)
        await ended(client, first.task_id)
        again = client.resume(asked, 3)
        assert (again.task_id, again.created) == (first.task_id, False)


async def test_node_that_asks_twice_gets_each_answer_where_it_asked(client, serving):
    async with serving(ask_twice):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        second = client.resume(asked, 1).task_id
        assert (await ended(client, second)).status is State.INTERRUPTED
        assert client.resume(asked, 1).task_id == second
        result = await ended(client, client.resume(second, 2).task_id)
    assert result.result == {"said": [1, 2]}


async def test_worker_killed_between_the_second_question_and_the_end_does_not_answer_it_with_the_first_answer(
    redis_client, client, serving
):
    async with serving(ask_twice):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        second = client.resume(asked, 1).task_id
        question = open_questions(await ended(client, second))
        # As after a kill -9 just before the end was written: the task is queued again, with its second attempt to come.
        redis_client.delete(f"agent:result:{second}", f"agent:events:{second}")
        redis_client.hset(task_hash(second), mapping={"state": "pending", "place": "queue"})
        redis_client.persist(f"rq:job:{second}")
        redis_client.rpush("rq:queue:agent_tasks", second)
        again = await ended(client, second)
        assert (again.status, open_questions(again)) == (State.INTERRUPTED, question)
        assert again.metadata.attempts == 2
        result = await ended(client, client.resume(second, 2).task_id)
    assert result.result == {"said": [1, 2]}


@pytest.mark.parametrize("is_nested", [False, True])
async def test_task_handed_back_while_it_uses_the_answer_does_not_answer_the_next_question_with_it(
    redis_url, client, is_nested
):
    runs = []

    async def ask(_state):
        answer = interrupt("first?")
        runs.append(answer)
        if len(runs) == 1:
            await asyncio.Event().wait()
        return {"said": [answer, interrupt("second?")]}

    asking = graph(ask)
    if is_nested:
        asking = StateGraph(Order).add_node("inner", asking).add_edge(START, "inner").add_edge("inner", END).compile()
    async with worker(redis_url, {"g": asking}, checkpoints=True, drain_s=0):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        resumed = client.resume(asked, "one").task_id
        await until(lambda: runs)
    assert client.status(resumed).state is State.PENDING
    async with worker(redis_url, {"g": asking}, checkpoints=True):
        again = await ended(client, resumed)
        assert list(open_questions(again)) == ["second?"]
        result = await ended(client, client.resume(resumed, "two").task_id)
    assert (result.result, again.metadata.attempts) == ({"said": ["one", "two"]}, 2)


async def test_failing_answer_that_is_tried_again_is_not_taken_for_the_next_one(client, serving):
    runs = []

    async def ask(_state):
        answer = interrupt("first?")
        runs.append(answer)
        if len(runs) == 1:
            raise ConnectionError
        return {"said": [answer, interrupt("second?")]}

    async with serving(ask):
        asked = client.submit({"said": []}, graph="g", max_attempts=2).task_id
        await ended(client, asked)
        resumed = client.resume(asked, "one").task_id
        assert list(open_questions(await ended(client, resumed))) == ["second?"]
        result = await ended(client, client.resume(resumed, "two").task_id)
    assert result.result == {"said": ["one", "two"]}


async def test_several_open_questions_are_answered_by_their_ids(client, serving):
    async with serving(ask_size, ask_colour):
        asked = client.submit({"said": []}, graph="g").task_id
        ids = open_questions(await ended(client, asked))
        with pytest.raises(InvalidTaskError, match="answers by interrupt id"):
            client.resume(asked, "L")
        answers = {ids["which size?"]: "L", ids["which colour?"]: "red"}
        result = await ended(client, client.resume(asked, answers=answers).task_id)
    assert sorted(result.result["said"]) == [["colour", "red"], ["size", "L"]]


async def test_answer_to_one_of_two_questions_leaves_the_other_open(client, serving):
    async with serving(ask_size, ask_colour):
        asked = client.submit({"said": []}, graph="g").task_id
        ids = open_questions(await ended(client, asked))
        half = client.resume(asked, answers={ids["which size?"]: "L"}).task_id
        assert list(open_questions(await ended(client, half))) == ["which colour?"]
        result = await ended(client, client.resume(half, "red").task_id)
    assert sorted(result.result["said"]) == [["colour", "red"], ["size", "L"]]


async def test_answer_that_comes_when_another_question_is_open_runs_nothing_and_shows_that_one(client, serving):
    async with serving(ask_once):
        first = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await ended(client, first)
        second = client.submit({"said": ["again"]}, graph="g", thread_id="th").task_id
        newer = open_questions(await ended(client, second))
        late = await ended(client, client.resume(first, 3).task_id)
    assert (late.status, open_questions(late)) == (State.INTERRUPTED, newer)


async def test_answer_that_comes_when_nothing_is_asked_any_more_is_rejected(client, serving):
    async def ask_the_first_time(state):
        return {"said": [1 if "done" in state["said"] else interrupt("how many?")]}

    async with serving(ask_the_first_time):
        first = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await ended(client, first)
        await ended(client, client.submit({"said": ["done"]}, graph="g", thread_id="th").task_id)
        late = await ended(client, client.resume(first, 3).task_id)
    assert (late.status, late.error.type) == (State.ERROR, ErrorType.REJECTED)


async def test_only_what_was_asked_can_be_answered(client, serving):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        with pytest.raises(InvalidTaskError, match="got: nope"):
            client.resume(asked, answers={"nope": 1})
        with pytest.raises(InvalidTaskError, match="either value"):
            client.resume(asked)
        answered = client.resume(asked, 1).task_id
        await ended(client, answered)
        with pytest.raises(NotInterruptedError, match="ended as success"):
            client.resume(answered, 1)
        later = client.submit({"said": []}, graph="g", delay_s=60).task_id
        with pytest.raises(NotInterruptedError, match="is pending: only an interrupted one is resumed"):
            client.resume(later, 1)
        with pytest.raises(UnknownTaskError):
            client.resume("nobody", 1)


async def test_question_is_kept_as_long_as_it_can_be_answered(client, serving, redis_client):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
    week_s = 7 * 86_400
    for key in (f"agent:result:{asked}", f"rq:job:{asked}", f"agent:task:{asked}"):
        assert week_s - 60 < redis_client.ttl(key) <= week_s


async def test_answered_thread_of_a_task_without_one_leaves_nothing_for_long(client, serving, redis_client):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        await ended(client, client.resume(asked, 1).task_id)
        keys = redis_client.keys("agent:thread_*TASK--*")
        await until(lambda: keys and all(0 < redis_client.ttl(key) <= 60 for key in keys if redis_client.exists(key)))


async def test_answer_handed_back_before_it_was_delivered_is_rejected_when_the_thread_has_gone_on(
    aredis, client, serving
):
    async def ask_the_first_time(state):
        return {"said": [1 if "done" in state["said"] else interrupt("how many?")]}

    async with serving(ask_the_first_time):
        first = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await ended(client, first)
        await ended(client, client.submit({"said": ["done"]}, graph="g", thread_id="th").task_id)
    resumed = client.resume(first, 3).task_id
    await hand_back(aredis, "g")
    async with serving(ask_the_first_time):
        late = await ended(client, resumed)
    assert (late.status, late.error.type, late.metadata.attempts) == (State.ERROR, ErrorType.REJECTED, 2)


@pytest.mark.parametrize("thread_id", [None, "th"])
@pytest.mark.parametrize("answer", [3, 4])
async def test_question_whose_answer_was_cancelled_is_answered_again(client, serving, thread_id, answer):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g", thread_id=thread_id).task_id
        await ended(client, asked)
    lost = client.resume(asked, 3).task_id
    assert client.cancel(lost) is State.CANCELLED
    async with serving(ask_once):
        again = client.resume(asked, answer)
        assert again.created
        assert client.resume(asked, answer).task_id == again.task_id
        result = await ended(client, again.task_id)
    assert (result.status, result.result) == (State.SUCCESS, {"said": [answer]})


@pytest.mark.parametrize("thread_id", [None, "th"])
@pytest.mark.parametrize("answer", ["one", "another"])
@pytest.mark.parametrize("is_nested", [False, True])
async def test_question_whose_answer_failed_while_it_was_used_takes_the_new_answer(
    redis_client, client, serving, thread_id, answer, is_nested
):
    runs = []

    async def ask(_state):
        given = interrupt("first?")
        runs.append(given)
        if len(runs) == 1:
            raise ValueError("not now")
        return {"said": [given, interrupt("second?")]}

    asking = StateGraph(Order).add_node("inner", graph(ask)).add_edge(START, "inner").add_edge("inner", END).compile()
    async with serving(asking if is_nested else graph(ask)):
        asked = client.submit({"said": []}, graph="g", thread_id=thread_id).task_id
        await ended(client, asked)
        failed = client.resume(asked, "one").task_id
        assert (await ended(client, failed)).status is State.ERROR
        for key in redis_client.keys("agent:thread_*"):
            assert not 0 < redis_client.ttl(key) <= 60, "the question is forgotten with its thread"
        second = client.resume(asked, answer).task_id
        assert list(open_questions(await ended(client, second))) == ["second?"]
        result = await ended(client, client.resume(second, "two").task_id)
    assert result.result == {"said": [answer, "two"]}


async def test_second_answer_to_a_question_says_by_which_task_it_was_answered_and_when(client, serving):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
        first = client.resume(asked, 3).task_id
        submitted_at = client.status(first).submitted_at
        for state in (None, State.SUCCESS):
            if state:
                await ended(client, first)
            with pytest.raises(AlreadyAnsweredError, match=f"already answered at .* by task {first}") as refused:
                client.resume(asked, 4)
            assert (refused.value.answered_by, refused.value.answered_at) == (first, submitted_at)


@pytest.mark.parametrize("stream", [[], ["updates"]])
async def test_question_without_checkpoints_is_an_error_that_names_the_setting(redis_url, client, stream):
    async with worker(redis_url, {"g": graph(ask_once)}):
        asked = await ended(client, client.submit({"said": []}, graph="g", stream=stream).task_id)
    assert (asked.status, asked.error.type) == (State.ERROR, ErrorType.GRAPH_ERROR)
    assert "LGRQ_CHECKPOINTS=true" in asked.error.message


async def test_answer_that_a_worker_without_checkpoints_takes_is_not_used_as_an_input_and_can_be_given_again(
    redis_url, client, serving
):
    async with serving(ask_once):
        asked = client.submit({"said": []}, graph="g").task_id
        await ended(client, asked)
    async with worker(redis_url, {"g": graph(ask_once)}):
        lost = await ended(client, client.resume(asked, 3).task_id)
    assert (lost.status, "LGRQ_CHECKPOINTS=true" in lost.error.message) == (State.ERROR, True)
    async with serving(ask_once):
        result = await ended(client, client.resume(asked, 3).task_id)
    assert result.result == {"said": [3]}


async def test_task_that_was_sent_before_the_question_was_visible_runs_after_the_answer(client, serving):
    may_ask = asyncio.Event()

    async def ask_the_first_time(state):
        if state["said"]:
            return {"said": ["later"]}
        await may_ask.wait()
        return {"said": [interrupt("how many?")]}

    async with serving(ask_the_first_time):
        asked = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await until(lambda: client.status(asked).state is State.RUNNING)
        behind = client.submit({"said": ["behind"]}, graph="g", thread_id="th").task_id
        may_ask.set()
        assert (await ended(client, asked)).status is State.INTERRUPTED
        answered = client.resume(asked, 3).task_id
        assert (await ended(client, answered)).result == {"said": [3]}
        result = await ended(client, behind)
    assert result.result == {"said": [3, "behind", "later"]}


async def test_results_of_a_dropped_question_and_of_the_task_that_dropped_it_name_each_other(
    client, serving, redis_client
):
    async with serving(ask_unless_told):
        asked = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await ended(client, asked)
        new = client.submit({"said": ["told"]}, graph="g", thread_id="th").task_id
        dropping = await ended(client, new)
        later = await ended(client, client.submit({"said": []}, graph="g", thread_id="th").task_id)
    dropped = client.result(asked)
    assert (dropping.metadata.dropped_question_of, dropping.metadata.question_dropped_by) == (asked, None)
    assert (dropped.metadata.question_dropped_by, dropped.status) == (new, State.INTERRUPTED)
    assert list(open_questions(dropped)) == ["how many?"]
    assert redis_client.ttl(f"agent:result:{asked}") > 86_400
    assert later.metadata.dropped_question_of is None
    assert not redis_client.exists("agent:question:th")


async def test_dropped_question_is_noted_although_the_attempt_that_dropped_it_was_cut_off(redis_url, client, serving):
    runs = []

    async def work(_state):
        runs.append(1)
        if len(runs) == 1:
            await asyncio.Event().wait()

    def told_then_work():
        builder = StateGraph(Order).add_node(ask_unless_told).add_node(work)
        return builder.add_edge(START, "ask_unless_told").add_edge("ask_unless_told", "work").compile()

    async with serving(told_then_work(), drain_s=0):
        asked = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await ended(client, asked)
        new = client.submit({"said": ["told"]}, graph="g", thread_id="th").task_id
        await until(lambda: runs)
    assert client.status(new).state is State.PENDING
    async with serving(told_then_work()):
        dropping = await ended(client, new)
    assert (dropping.status, dropping.metadata.attempts) == (State.SUCCESS, 2)
    assert dropping.metadata.dropped_question_of == asked
    assert client.result(asked).metadata.question_dropped_by == new


async def test_input_that_the_graph_refuses_drops_no_question(client, serving):
    async with serving(ask_unless_told):
        asked = client.submit({"said": []}, graph="g", thread_id="th").task_id
        await ended(client, asked)
        refused = await ended(client, client.submit([1], graph="g", thread_id="th").task_id)
    assert refused.error.type is ErrorType.INVALID_INPUT
    assert refused.metadata.dropped_question_of is None
    assert client.result(asked).metadata.question_dropped_by is None


async def test_answer_to_a_question_that_was_seen_is_not_used_for_another_one_under_its_id(client, serving):
    amounts = iter([10, 20, 30, 40])

    async def ask_amount(_state):
        return {"said": [("amount", interrupt(f"pay {next(amounts)}?"))]}

    async def ask_and_fail(_state):
        interrupt("ready?")
        raise ValueError("not yet")

    async with serving(ask_amount, ask_and_fail):
        asked = client.submit({"said": []}, graph="g").task_id
        first = open_questions(await ended(client, asked))
        amount, ready = first["pay 10?"], first["ready?"]
        # The answer to the other question runs both nodes: the one without an answer asks anew, under the same id.
        failed = await ended(client, client.resume(asked, answers={ready: True}).task_id)
        assert failed.status is State.ERROR
        with pytest.raises(InvalidTaskError, match="the question that is answered"):
            client.resume(asked, answers={amount: "yes"}, seen={amount: "pay 5?"})
        late = await ended(client, client.resume(asked, answers={amount: "yes"}, seen={amount: "pay 10?"}).task_id)
    assert late.status is State.INTERRUPTED
    assert amount in open_questions(late).values()
    assert "pay 10?" not in open_questions(late)

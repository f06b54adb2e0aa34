"""Tasks behind a question: they wait for its answer, and their deadlines stand still."""

import json

import pytest

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.scripts import load_script, make_script
from langgraph_rq.shared.queue import attempts, ending, upkeep, verbs
from langgraph_rq.shared.queue.attempts import drop_question_call, finish_call
from langgraph_rq.shared.queue.keys import Question
from langgraph_rq.shared.queue.upkeep import sweep_call
from langgraph_rq.shared.queue.verbs import cancel_call, missing_worker_call
from langgraph_rq.shared.tasks import State
from tests.shared.queue.test_task_queue import TIMES, QueueOnRedis

DAY_MS = 86_400_000
ANSWER = {"resume": {"answers": {"q": 1}}}


class Thread(QueueOnRedis):
    """One thread; its tasks have a deadline of 300 s."""

    async def submit(self, task_id="t1", **fields):
        return await super().submit(task_id, thread_id="th", **fields)

    async def end(self, claimed, state=State.SUCCESS, question=Question.NONE):
        call = finish_call(claimed, "w1", state, b"{}", TIMES, question=question, now_ms=self.now_ms)
        await scripts.run(self.redis, call)

    async def ask(self, task_id="asks", *behind):
        """Run a task to its question, with others sent meanwhile."""
        await self.join()
        await self.submit(task_id)
        claimed = await self.claim_one()
        for other in behind:
            await self.submit(other)
        await self.end(claimed, State.INTERRUPTED, Question.ASKED)

    async def claimed(self):
        await self.join()
        return [task.id for task in (await self.claim()).tasks]

    async def sweep(self):
        return await scripts.run(self.redis, sweep_call(now_ms=self.now_ms))

    async def cancel(self, task_id):
        call = cancel_call(task_id, State.CANCELLED, b"{}", TIMES, now_ms=self.now_ms)
        return (await scripts.run(self.redis, call)).state


@pytest.fixture
def thread(aredis):
    return Thread(aredis)


async def test_task_accepted_before_the_question_was_visible_waits_for_the_answer(thread):
    await thread.ask("asks", "behind")
    assert await thread.claimed() == []
    await thread.submit("answer", **ANSWER)
    answer = await thread.claim_one()
    assert answer.id == "answer"
    await thread.end(answer)
    assert await thread.claimed() == ["behind"]


async def test_task_that_waits_for_an_answer_says_so(thread):
    def reason(task_id):
        return scripts.run(thread.redis, missing_worker_call(task_id, thread.now_ms))

    await thread.ask("asks", "behind")
    assert await reason("behind") == "waits for the answer to a question of its thread"
    await thread.submit("answer", **ANSWER)
    assert await reason("answer") is None
    await thread.end(await thread.claim_one())
    assert await reason("behind") is None


async def test_answers_to_two_questions_in_a_row_go_before_the_task_that_waits(thread):
    await thread.ask("asks", "behind")
    await thread.submit("answer", **ANSWER)
    await thread.end(await thread.claim_one(), State.INTERRUPTED, Question.ASKED)
    assert await thread.claimed() == []
    await thread.submit("second", **ANSWER)
    answer = await thread.claim_one()
    assert answer.id == "second"
    await thread.end(answer)
    assert await thread.claimed() == ["behind"]


async def test_answer_behind_another_one_goes_on_before_the_task_that_waits(thread):
    await thread.ask("asks", "behind")
    await thread.submit("one", **ANSWER)
    answer = await thread.claim_one()
    await thread.submit("two", **ANSWER)
    await thread.end(answer, State.INTERRUPTED, Question.ASKED)
    second = await thread.claim_one()
    assert second.id == "two"
    await thread.end(second)
    assert await thread.claimed() == ["behind"]


async def test_thread_whose_waiting_tasks_were_cancelled_is_free_once_its_question_is_gone(thread):
    await thread.ask("asks", "first", "last")
    for task_id in ("last", "first"):
        await thread.cancel(task_id)
    assert not await thread.redis.exists("agent:thread:th")
    await thread.redis.delete("agent:question:th")
    await thread.submit("new")
    assert await thread.claimed() == ["new"]


async def test_dropped_question_is_known_to_the_task_that_drops_it_when_another_one_ended_before(thread):
    await thread.ask("asks", "behind")
    await thread.submit("new")
    await thread.end(await thread.claim_one())
    new = await thread.claim_one()
    assert await scripts.run(thread.redis, drop_question_call("new", new.epoch, "w1", "th", drops=True)) == "asks"


async def test_task_sent_to_a_thread_that_shows_a_question_runs_after_those_that_waited(thread):
    await thread.ask("asks", "behind")
    await thread.submit("new")
    behind = await thread.claim_one()
    assert behind.id == "behind"
    assert await thread.claimed() == []
    await thread.end(behind)
    assert await thread.claimed() == ["new"]


async def test_task_sent_to_a_thread_that_shows_a_question_runs_although_those_that_waited_were_cancelled(thread):
    await thread.ask("asks", "first", "second")
    assert await thread.cancel("second") is State.CANCELLED
    assert await thread.cancel("first") is State.CANCELLED
    await thread.submit("new")
    assert await thread.claimed() == ["new"]


async def test_task_sent_to_a_thread_that_shows_a_question_runs_at_once_and_so_does_the_one_behind_it(thread):
    await thread.ask()
    await thread.submit("new")
    await thread.submit("next")
    assert await thread.cancel("new") is State.CANCELLED
    assert await thread.claimed() == ["next"]


@pytest.mark.parametrize("state", [State.CANCELLED, State.ERROR])
async def test_task_waits_on_after_an_answer_that_was_lost(thread, state):
    await thread.ask("asks", "behind")
    await thread.submit("lost", **ANSWER)
    if state is State.CANCELLED:
        assert await thread.cancel("lost") is state
    else:
        await thread.end(await thread.claim_one(), state, Question.KEPT)
    assert await thread.claimed() == []
    await thread.submit("again", **ANSWER)
    assert await thread.claimed() == ["again"]


async def test_task_goes_on_when_the_answer_failed_later_than_its_question(thread):
    await thread.ask("asks", "behind")
    await thread.submit("answer", **ANSWER)
    await thread.end(await thread.claim_one(), State.ERROR, Question.NONE)
    assert await thread.claimed() == ["behind"]


async def test_deadline_stands_still_while_a_task_waits_for_the_answer(thread):
    await thread.ask("asks", "behind")
    await thread.join()
    thread.now_ms += 3_600_000
    swept = await thread.sweep()
    assert (swept.overdue, swept.again) == ((), ())
    thread.now_ms += 3_600_000
    await thread.submit("answer", **ANSWER)
    await thread.join()
    answer = await thread.claim_one()
    await thread.end(answer)
    behind = await thread.claim_one()
    assert behind.id == "behind"
    assert behind.deadline_at_ms - thread.now_ms == 300_000


async def test_deadline_goes_on_after_the_longest_wait_for_an_answer(thread):
    await thread.ask("asks", "behind")
    thread.now_ms += DAY_MS + 299_000
    assert (await thread.sweep()).overdue == ()
    thread.now_ms += 6_000
    assert (await thread.sweep()).overdue == ("behind",)
    pipeline = thread.redis.pipeline()
    ending.add_reads(pipeline, "behind")
    document = json.loads(ending.unrun_result("behind", State.TIMEOUT, await pipeline.execute()))
    assert document["error"]["message"] == (
        "the deadline of 300 s passed while a question of its thread had no answer, for 86400 s of which it stood still"
    )


async def test_task_that_waits_for_an_answer_is_in_its_place_and_its_keys_stay(thread):
    await thread.ask("asks", "behind", "last")
    for _ in range(3):
        thread.now_ms += 600_000
        assert (await thread.sweep()).again == ()
    for task_id in ("behind", "last"):
        assert [await thread.redis.ttl(f"{key}:{task_id}") for key in ("agent:task", "rq:job")] == [-1, -1]


async def test_task_goes_on_when_another_program_removed_the_question(thread):
    await thread.ask("asks", "behind")
    await thread.redis.delete("agent:question:th")
    assert (await thread.sweep()).again == ("behind",)
    assert await thread.claimed() == ["behind"]


async def test_thread_without_open_tasks_keeps_its_question_for_the_window_and_loses_it_with_the_answer(thread):
    await thread.ask()
    left_ms = await thread.redis.pttl("agent:question:th")
    assert 0 < left_ms <= TIMES.window_ms + TIMES.question_ms
    await thread.submit("answer", **ANSWER)
    await thread.end(await thread.claim_one())
    assert not await thread.redis.exists("agent:question:th", "agent:thread:th")


MUTANTS = {
    "a task does not wait for an answer": (
        "finish",
        "if asks and not answers then",
        "if false then",
        test_task_accepted_before_the_question_was_visible_waits_for_the_answer,
    ),
    "an answer behind another one waits for an answer": (
        "finish",
        "if asks and not answers then",
        "if asks then",
        test_answer_behind_another_one_goes_on_before_the_task_that_waits,
    ),
    "an answer behind another one waits behind the others": (
        "submit",
        "if is_answer and is_asking(thread) then",
        "if false then",
        test_answer_behind_another_one_goes_on_before_the_task_that_waits,
    ),
    "an ended task that waited keeps its thread": (
        "cancel",
        "  local asks = is_asking(thread)\n",
        "  local asks = is_asking(thread)\n  if asks then\n    return\n  end\n",
        test_thread_whose_waiting_tasks_were_cancelled_is_free_once_its_question_is_gone,
    ),
    "an answer waits behind the others": (
        "submit",
        "  if is_answer and is_asked then",
        "  if false then",
        test_answers_to_two_questions_in_a_row_go_before_the_task_that_waits,
    ),
    "a new input waits for the answer": (
        "submit",
        "  if drops then\n    wake_thread(id, thread)\n  end\n  if not",
        "  if false then\n    wake_thread(id, thread)\n  end\n  if not",
        test_task_sent_to_a_thread_that_shows_a_question_runs_after_those_that_waited,
    ),
    "a dropped question is still waited for": (
        "submit",
        "    end_question(thread, now_ms)\n  end\n  if is_answer and",
        "  end\n  if is_answer and",
        test_task_sent_to_a_thread_that_shows_a_question_runs_at_once_and_so_does_the_one_behind_it,
    ),
    "an answered question is still waited for": (
        "finish",
        "elseif what == '' and",
        "elseif false and",
        test_task_goes_on_when_the_answer_failed_later_than_its_question,
    ),
    "a claim forgets that the deadline stood still": (
        "claim",
        "deadline = stand_still(id, now_ms)",
        "",
        test_deadline_stands_still_while_a_task_waits_for_the_answer,
    ),
    "a deadline stands still for ever": (
        "sweep",
        "math.min(now_ms - natural(since, now_ms), natural(most, 0))",
        "now_ms - natural(since, now_ms)",
        test_deadline_goes_on_after_the_longest_wait_for_an_answer,
    ),
    "a task that waits for an answer is swept": (
        "sweep",
        "is_asking(thread) or",
        "false or",
        test_task_that_waits_for_an_answer_is_in_its_place_and_its_keys_stay,
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_rule_of_questions_that_is_taken_out_is_caught_by_its_test(thread, monkeypatch, mutant):
    verb, original, replacement, its_test = MUTANTS[mutant]
    script = load_script(f"shared/queue/scripts/{verb}")
    assert script.source.count(original) == 1
    mutated = make_script(script.name, script.source.replace(original, replacement))
    for module in (verbs, attempts, upkeep):
        monkeypatch.setattr(module, "load_script", lambda name: mutated if name == script.name else load_script(name))
    with pytest.raises((AssertionError, ValueError)):
        await its_test(thread)

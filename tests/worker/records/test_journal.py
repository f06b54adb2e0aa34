"""The answer journal in Redis: who may write, what is forgotten, how much is read."""

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_rq.shared.connections.scripts import run
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.queue.keys import task_hash
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings, load
from langgraph_rq.worker.context import open_context
from langgraph_rq.worker.guards.task_guard import TaskGuard
from langgraph_rq.worker.records.journal import MOST_ANSWERS, AnswerJournal, journal_key
from langgraph_rq.worker.records.ledger import Ledger
from langgraph_rq.worker.records.position import NodeRun
from langgraph_rq.worker.state.serializer import StateSerializer
from tests.worker.state.scenarios import chain, step, thread

TASK = "task"
HOUR_MS = 3_600_000


@pytest.fixture
def now_ms(redis_client):
    seconds, microseconds = redis_client.time()
    return seconds * 1000 + microseconds // 1000


@pytest.fixture(autouse=True)
def owned(redis_client, now_ms):
    fields = {"state": "running", "epoch": 2, "owner": "worker", "deadline": now_ms + HOUR_MS}
    redis_client.hset(task_hash(TASK), mapping=fields)


def journal_of(epoch: int = 2, worker: str = "worker") -> AnswerJournal:
    return AnswerJournal(TASK, epoch, worker, 0, StateSerializer())


@pytest.mark.parametrize(("epoch", "worker"), [(1, "worker"), (2, "another")])
async def test_attempt_that_lost_its_task_records_nothing(aredis, redis_client, epoch, worker):
    assert await run(aredis, journal_of(epoch, worker).keep_call("position", "answer")) is False
    assert redis_client.exists(journal_key(TASK)) == 0


async def test_task_that_has_ended_records_nothing(aredis, redis_client):
    redis_client.hset(task_hash(TASK), "state", "cancelled")
    assert await run(aredis, journal_of().keep_call("position", "answer")) is False


async def test_journal_outlives_the_deadline_of_its_task_by_a_minute(aredis, redis_client):
    assert await run(aredis, journal_of().keep_call("position", "answer"))
    assert HOUR_MS < redis_client.pttl(journal_key(TASK)) <= HOUR_MS + 60_000


async def test_next_attempt_finds_what_was_recorded_until_a_checkpoint(aredis, redis_client):
    first, second = journal_of(), journal_of()
    await run(aredis, first.keep_call("position", ["answer"]))
    second.open(await run(aredis, second.read_call()))
    assert (second.find("position"), second.find("other")) == (["answer"], None)
    assert await run(aredis, second.forget_call("id")) == 1
    assert (second.find("position"), second.forget_call("id")) == (None, None)
    assert redis_client.exists(journal_key(TASK)) == 0


@pytest.mark.parametrize("is_nested", [False, True])
async def test_answer_to_a_node_that_still_runs_outlives_the_checkpoint_on_which_it_began(is_nested):
    """With `durability="async"` that is saved meanwhile."""
    journal, saver, began_at = journal_of(), InMemorySaver(), []

    async def ask(_state):
        began_at.append(NodeRun.current().began_at)
        assert journal.keep_call(journal.position("request"), "answer")
        return {"steps": ["ask"]}

    asking = chain(ask).compile(name="asking") if is_nested else ask
    await chain(step("one"), asking).compile(checkpointer=saver).ainvoke({"steps": []}, thread())
    behind, on, *_ = [one.checkpoint["id"] async for one in saver.alist(thread(checkpoint_ns=""))]
    assert began_at == [on]
    assert journal.forget_call(on) is None
    assert len(journal.forget_call(behind).args) == 1


async def test_journal_that_nobody_of_us_wrote_is_not_read(aredis, redis_client):
    redis_client.hset(journal_key(TASK), mapping={str(number): "x" for number in range(MOST_ANSWERS + 1)})
    assert await run(aredis, journal_of().read_call()) == {}
    assert redis_client.exists(journal_key(TASK)) == 0


async def test_answers_beyond_four_megabytes_are_left_out():
    journal = journal_of()
    assert journal.keep_call("one", "x" * 3_000_000)
    assert journal.keep_call("two", "x" * 3_000_000) is None
    assert journal.keep_call("three", "x" * 500_000)


def test_checkpoint_of_another_thread_forgets_nothing():
    """A node may run a graph on a thread of its own."""
    run = TaskGuard(None, ledger=Ledger("thread", StateSerializer()))
    run.waits.paid[""] = 1
    run.note_checkpoint("another", "id")
    assert run.waits.would_pay_again
    run.note_checkpoint("thread", "id")
    assert not run.waits.would_pay_again


async def test_journal_without_checkpoints_is_a_wrong_setting(monkeypatch, redis_url):
    monkeypatch.setenv("REDIS_URL", redis_url)
    settings = WorkerSettings(answer_journal=True, checkpoints=False)
    with pytest.raises(SettingsError, match="LGRQ_ANSWER_JOURNAL: expected LGRQ_CHECKPOINTS=true"):
        async with open_context(settings, load(RedisSettings)):
            pass

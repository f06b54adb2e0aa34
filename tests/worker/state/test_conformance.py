"""LangGraph's own suite for checkpointers, on a Redis without modules, and with them."""

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys


@pytest.mark.parametrize("key", [None, "a secret of more than 32 characters"])
async def test_every_capability_conforms_and_none_is_skipped(plain, key):
    @checkpointer_test(name="ThreadSaver")
    async def threads():
        yield ThreadSaver(plain, serializer=StateSerializer(StateKeys.parse(key and key.replace(" ", "-"))))

    report = await validate(threads)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {each.value for each in Capability}
    assert all(result.tests_skipped == 0 for result in report.results.values())


async def test_what_redis_stack_has_of_it_conforms(stack):
    @checkpointer_test(name="redis-stack")
    async def saved():
        saver = Checkpointer(stack)
        await saver.asetup()
        yield saver

    report = await validate(saved)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if not result.passed} == {"copy_thread", "delete_for_runs"}

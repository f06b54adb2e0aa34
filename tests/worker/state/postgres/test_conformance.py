"""LangGraph's own suite for checkpointers, on Postgres."""

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys


@pytest.mark.parametrize("key", [None, "a-secret-of-more-than-32-characters"])
async def test_every_capability_conforms_and_none_is_skipped(postgres, key):
    @checkpointer_test(name="PostgresSaver")
    async def savers():
        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "lgrq_threads"):
            await postgres.rows(f"DELETE FROM {table}", {})
        yield PostgresSaver(postgres, serializer=StateSerializer(StateKeys.parse(key)))

    report = await validate(savers)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {each.value for each in Capability}
    assert all(result.tests_skipped == 0 for result in report.results.values())

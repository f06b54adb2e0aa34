"""The types that state may hold, of graphs that are made again and again."""

from dataclasses import dataclass
from threading import Lock

import pytest
from pydantic import BaseModel

from langgraph_rq.worker.state.allowed_types import AllowedTypes
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.serializer import StateSerializer


def make_types():
    """Make classes as a factory does that is called for each run."""

    @dataclass
    class Point:
        x: int

    class Answer(BaseModel):
        text: str

    return Point, Answer


def test_classes_that_a_factory_makes_for_each_run_are_kept_once():
    types = AllowedTypes()
    types.allow(make_types())
    kept = len(types._by_type)
    for _ in range(100):
        types.allow(make_types())
    assert len(types._by_type) == kept


def test_state_of_an_earlier_run_of_a_factory_is_read():
    serializer = StateSerializer()
    serializer.allow(make_types())
    point, answer = make_types()
    serializer.allow([point, answer])
    read = serializer.loads_typed(serializer.dumps_typed([point(1), answer(text="so")]))
    assert [vars(one) for one in read] == [{"x": 1}, {"text": "so"}]


def test_class_that_no_graph_has_is_refused_wherever_it_was_made():
    point, _ = make_types()
    with pytest.raises(RefusedStateError, match="Point"):
        StateSerializer().dumps_typed(point(1))


@pytest.mark.parametrize("value", [Lock(), make_types, (one for one in "ab")], ids=["lock", "function", "generator"])
def test_type_that_no_setting_can_allow_comes_with_other_advice(value):
    with pytest.raises(RefusedStateError, match=r"got: '.*'; keep it out of the state, or make it a .*named tuple$"):
        StateSerializer().dumps_typed({"x": value})

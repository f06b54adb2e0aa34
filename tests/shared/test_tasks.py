"""The wire contract: what is accepted, what is refused, and with which words."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_rq.shared.errors import InvalidTaskError, Violation
from langgraph_rq.shared.schema import SCHEMA
from langgraph_rq.shared.tasks import FUNCTION, Priority, State, Task, TaskLimits, task_key, thread_key, thread_of_key

LIMITS = TaskLimits()


def refusal(document) -> str:
    with pytest.raises(InvalidTaskError) as error:
        Task.parse(document, LIMITS)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_smallest_task_is_an_input():
    task = Task.parse('{"input": {"query": "hi"}}', LIMITS)
    assert (task.graph, task.priority, task.deadline_s, task.max_attempts) == ("assistant", Priority.DEFAULT, 300, 1)
    assert re.fullmatch(r"[0-9a-f-]{36}", task.task_id)


def test_task_is_written_as_a_job_of_rq_and_read_again():
    task = Task.parse({"input": {"q": [1, 2.5, None, "ü"]}, "user_id": "ann", "metadata": {"a": 1}}, LIMITS)
    function, instance, args, kwargs = json.loads(task.job_data())
    assert (function, instance, kwargs) == (FUNCTION, None, {})
    assert args[0]["schema"] == 1
    assert Task.parse(args[0], LIMITS) == task


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{nope", "task: expected JSON"),
        ("[1]", "task: expected a JSON object, got: a list of 1"),
        ("{}", "input: expected a JSON value, got: nothing"),
        ('{"input": null}', "input: expected a value, or beside null a thread_id to continue, got: null"),
        ({"input": {"x": 1}, "command": {"goto": "n"}}, "input: expected null beside command, got: an object"),
        ({"command": {"goto": "n"}, "resume": {"answers": {"i": 1}}}, "command: expected either command or resume"),
        ({"command": {"resume": 1}}, "thread_id: expected the thread whose question is answered, got: nothing"),
        ({"command": {"resume": None}}, "command: expected a JSON object with at least one of resume, update and goto"),
        ({"command": {"got": "n"}}, "command.got: unknown field (did you mean goto?)"),
        ({"command": {"goto": [{"nod": "n"}]}}, "command.goto: expected a node, {node, input}, or a list of them"),
        ({"command": {"update": 3}}, "command.update: expected a JSON object, or a list of [key, value]"),
        ({"input": {}, "checkpoint_id": "c"}, "thread_id: expected the thread of the checkpoint, got: nothing"),
        ({"input": {}, "context": [1]}, "context: expected a JSON object, got: a list of 1"),
        ({"input": {}, "context": {"x": float("nan")}}, "context.x: expected a finite number, got: nan"),
        ({"input": {}, "context": {"x": "y" * 5_000_000}}, "context: expected at most 4,000,000 bytes"),
        ({"input": {}, "config": {"recursion_limits": 3}}, "unknown field (did you mean recursion_limit?)"),
        (
            {"input": {}, "config": {"recursion_limit": 0}},
            "config.recursion_limit: expected greater than or equal to 1",
        ),
        (
            {"input": {}, "config": {"configurable": {"thread_id": "t"}}},
            "config.configurable: expected no key that the worker sets itself (thread_id)",
        ),
        ({"input": {}, "interrupt_before": "tools"}, 'interrupt_before: expected a list of nodes, or "*", got: '),
        ({"input": {}, "durability": "never"}, "durability: expected 'sync', 'async' or 'exit', got: \"never\""),
        ('{"input": {}, "inptu": 1}', "inptu: unknown field (did you mean input?)"),
        (
            '{"input": {}, "task_id": "a b"}',
            'task_id: expected letters, digits, _ and single dashes, at most 128, got: "a b"',
        ),
        ('{"input": {}, "task_id": "a--b"}', "task_id: expected"),
        (
            '{"input": {}, "graph": "as\\u001b[31m"}',
            "graph: expected a name of 1 to 256 characters, none of them a control",
        ),
        (
            {"input": {}, "graph": "tnatsissa\u202e"},
            "graph: expected a name of 1 to 256 characters, none of them a control",
        ),
        (
            {"input": {}, "graph": "support\ndesk"},
            "graph: expected a name of 1 to 256 characters, none of them a control",
        ),
        ('{"input": {}, "priority": "urgent"}', "priority: expected 'high', 'default' or 'low', got: \"urgent\""),
        ('{"input": {}, "deadline_s": 1e9}', "deadline_s: expected at most 86,400, got: 1,000,000,000"),
        ('{"input": {}, "max_attempts": 0}', "max_attempts: expected"),
        ('{"input": {}, "schema": 3}', "schema: expected a version up to 2, got: 3"),
        ('{"input": {"x": NaN}}', "task: expected JSON"),
        ({"input": {"x": float("inf")}}, "input.x: expected a finite number, got: inf"),
        ({"input": {"x": "\ud800"}}, "input: expected Unicode text, got: half of a pair of surrogates"),
        ({"input": {1: 2}}, "input: expected text as keys of an object, got: 1"),
        ({"input": {"x": [{"y": {None: 2}}]}}, "input.x[0].y: expected text as keys of an object, got: null"),
        ({"input": {("a", "b"): 2}}, "input: expected text as keys of an object, got: a list of 2"),
        ({"input": {"x": 10**400}}, "input.x: expected an integer below 2^63"),
        ({"input": {"x": "y" * 5_000_000}}, "input: expected at most 4,000,000 bytes, got: 5,000,008"),
        ('{"input": {"x": ' + "[" * 40 + "]" * 40 + "}}", "input: expected at most 32 levels of nesting"),
        ('{"input": {"x": ' + "[" * 9000 + "]" * 9000 + "}}", "task: expected JSON"),
        ({"input": {}, "metadata": {"x": "y" * 20_000}}, "metadata: expected at most 16,000 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_violation_is_named(document, words):
    assert words in refusal(document)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": None, "thread_id": "t"},
        {"command": {"resume": {"a": None}, "goto": ["n", {"node": "m", "input": {"x": None}}]}, "thread_id": "t"},
        {"command": {"update": {"x": None}}},
        {"input": {}, "context": {"x": None}, "config": {"configurable": {"y": None}, "tags": ["t"]}},
        {"input": {}, "interrupt_before": "*", "interrupt_after": ["n"], "durability": "exit"},
        {"input": 0, "stream": ["debug", "values"], "stream_subgraphs": True},
    ],
)
def test_task_with_fields_of_the_second_schema_is_read_as_it_was_written_and_left_to_newer_workers(fields):
    task = Task.parse(fields, LIMITS)
    written = json.loads(task.job_data())[2][0]
    assert written["schema"] == SCHEMA == 2
    assert Task.parse(written, LIMITS) == task


def test_digest_of_a_task_without_fields_of_the_second_schema_is_as_it_was():
    task = Task.parse({"task_id": "x", "input": {"a": 1}}, LIMITS)
    assert task.digest == "9411e7c529b9233d23f92f67b867e8dd"
    assert Task.parse({"task_id": "x", "input": {"a": 1}, "context": {}}, LIMITS).digest != task.digest


@pytest.mark.parametrize("name", ["support desk", "größe-2", "助手", "a.b:c/d"])
def test_name_of_a_graph_may_have_any_other_character(name):
    assert Task.parse({"input": {}, "graph": name}, LIMITS).graph == name


def test_every_violation_is_named_in_one_line():
    message = refusal({"input": {}, "task_id": "a b", "priority": "urgent", "grph": "x"})
    assert all(field in message for field in ("task_id:", "priority:", "grph: unknown field (did you mean graph?)"))


def test_violation_carries_its_field_what_was_expected_and_what_came():
    with pytest.raises(InvalidTaskError) as refused:
        Task.parse({"input": {}, "grph": "x", "max_attempts": 99}, TaskLimits(attempts=10))
    (unknown,) = refused.value.violations
    assert (unknown.field, unknown.got, unknown.suggestion) == ("grph", '"x"', "graph")
    with pytest.raises(InvalidTaskError) as refused:
        Task.parse({"input": {}, "max_attempts": 99}, TaskLimits(attempts=10))
    assert refused.value.violations == (Violation("max_attempts", "at most 10", "99"),)


def test_same_body_has_the_same_digest_whenever_it_is_submitted():
    first = Task.parse({"task_id": "x", "input": {"a": 1, "b": 2}}, LIMITS)
    later = Task.parse({"task_id": "x", "input": {"b": 2, "a": 1}, "submitted_at": "2020-01-01T00:00:00Z"}, LIMITS)
    other = Task.parse({"task_id": "x", "input": {"a": 1, "b": 3}}, LIMITS)
    assert first.digest == later.digest != other.digest


def test_tenants_share_no_key():
    keys = {task_key(task_id, tenant) for task_id in ("x", "default-x", "a-x") for tenant in ("default", "a", "b")}
    assert len(keys) == 9


@given(st.lists(st.text("-%2D5a", min_size=1), min_size=2, max_size=2, unique=True))
def test_keys_of_threads_differ_and_give_their_ids_back(ids):
    keys = {thread_key(id_, tenant): (id_, tenant) for id_ in ids for tenant in ("acme", "default")}
    assert len(keys) == 4
    for key, (id_, tenant) in keys.items():
        assert thread_of_key(key, tenant) == id_
        assert not key.startswith("TASK--")


@pytest.mark.parametrize("id_", ["thread-1", "a_b.c@d+e", "ü 7:x/y", "-"])
def test_most_threads_are_known_by_their_ids(id_):
    assert (thread_key(id_), thread_key(id_, "acme")) == (id_, f"acme--{id_}")


def test_thread_of_a_task_without_one_is_its_own():
    alone = Task.parse({"task_id": "x", "input": {}}, LIMITS)
    other = Task.parse({"task_id": "y", "input": {}, "thread_id": "x"}, LIMITS)
    assert alone.thread_key != other.thread_key == "x"


def test_only_pending_and_running_are_not_terminal():
    assert [state for state in State if not state.is_terminal] == [State.PENDING, State.RUNNING]


@pytest.mark.parametrize("field", ["task_id", "origin"])
def test_task_continues_tasks_of_its_own_tenant_only(field):
    with pytest.raises(InvalidTaskError, match=field):
        Task.parse({"input": None, "continues": {"task_id": "mine", field: "acme--theirs"}}, TaskLimits())

"""The errors carry their facts, and a message that is built from them."""

import pickle
from datetime import UTC, datetime
from inspect import isclass

import pytest

from langgraph_rq.producer.cli.guards import UnknownBreakerError
from langgraph_rq.producer.cli.main import NotEndedError
from langgraph_rq.shared import errors
from langgraph_rq.shared.errors import (
    AlreadyAnsweredError,
    ForgedResultError,
    InvalidInputError,
    InvalidTaskError,
    LanggraphRqError,
    MissingExtraError,
    NotContinuableError,
    NotInterruptedError,
    QueueFullError,
    RedisUnavailableError,
    ScriptsMissingError,
    SettingsError,
    TaskConflictError,
    TenantFullError,
    ThreadBusyError,
    ThreadRequestError,
    UnknownField,
    UnknownGraphError,
    UnknownTaskError,
    UnreadableTaskError,
    Violation,
    WaitTimeoutError,
)

AT = datetime(2026, 11, 28, tzinfo=UTC)
WRONG = Violation("deadline_s", "greater than 0", "-1")
EXAMPLES = [
    (InvalidInputError(WRONG), {"violations": (WRONG,)}),
    (InvalidTaskError(WRONG, UnknownField("grph", "graph", "1", "graph"), line=3), {"line": 3}),
    (TaskConflictError("order-7", "pending"), {"task_id": "order-7", "state": "pending"}),
    (AlreadyAnsweredError("order-7", "resume-1", AT, "running"), {"answered_by": "resume-1", "answered_at": AT}),
    (UnknownGraphError("triag", "triage"), {"graph": "triag", "known": "triage"}),
    (TenantFullError("acme", "5 open tasks"), {"tenant": "acme", "held": "5 open tasks", "retry_after_s": 5}),
    (QueueFullError(97), {"used_percent": 97, "retry_after_s": 30}),
    (RedisUnavailableError("redis://host", OSError("refused")), {"url": "redis://host", "reason": "refused"}),
    (ScriptsMissingError("redis://host", "lacks the script x"), {"url": "redis://host", "retry_after_s": 5}),
    (UnknownTaskError("order-7"), {"task_id": "order-7", "state": None}),
    (UnknownTaskError("order-7", "success"), {"state": "success"}),
    (UnreadableTaskError("order-7", "state", "odd"), {"task_id": "order-7", "part": "state", "found": "odd"}),
    (ForgedResultError("order-7", "signature: expected x"), {"task_id": "order-7", "reason": "signature: expected x"}),
    (NotInterruptedError("order-7", "success"), {"task_id": "order-7", "state": "success"}),
    (NotContinuableError("order-7", "success"), {"task_id": "order-7", "state": "success"}),
    (ThreadBusyError("t"), {"thread_id": "t"}),
    (ThreadRequestError("nobody answered"), {"reason": "nobody answered"}),
    (WaitTimeoutError("order-7", 2), {"task_id": "order-7", "count": 2}),
    (SettingsError("LGRQ_QUEUE: expected a name, got: nothing"), {}),
    (MissingExtraError("serve", "api", "fastapi"), {}),
]


OF_THE_COMMAND_LINE = [
    (UnknownBreakerError("gpt", ["gpt-4o"], "gpt-4o"), {"known": ("gpt-4o",), "suggestion": "gpt-4o"}),
    (NotEndedError("order-7", "running"), {"task_id": "order-7", "state": "running"}),
]


@pytest.mark.parametrize(("error", "facts"), EXAMPLES + OF_THE_COMMAND_LINE, ids=lambda value: type(value).__name__)
def test_error_carries_its_facts_also_through_pickle(error, facts):
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is type(error)
        assert str(one) == str(error)
        assert {name: getattr(one, name) for name in facts} == facts


def test_every_error_has_the_one_root_and_an_example():
    kinds = {one for one in vars(errors).values() if isclass(one) and issubclass(one, Exception)}
    assert all(issubclass(kind, LanggraphRqError) for kind in kinds)
    assert kinds - {LanggraphRqError} == {type(error) for error, _ in EXAMPLES}


def test_violations_are_named_in_one_grammar():
    error = InvalidTaskError(WRONG, UnknownField("grph", "graph", "1", "graph"), UnknownField("x", "a, b", "1"), line=3)
    assert str(error) == (
        "line 3: deadline_s: expected greater than 0, got: -1; grph: unknown field (did you mean graph?); "
        "x: unknown field, known: a, b"
    )

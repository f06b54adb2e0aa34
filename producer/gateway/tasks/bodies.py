"""The bodies of requests: strict JSON without control characters and without unknown fields."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar

from fastapi import Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from langgraph_rq.producer.gateway.problems import invalid
from langgraph_rq.producer.gateway.query import KnownQueryRoute
from langgraph_rq.shared.errors import UnknownTaskError, Violation
from langgraph_rq.shared.run_fields import CheckpointId, Durability, GraphCommand, Nodes, RunConfig, StreamMode, TaskId
from langgraph_rq.shared.strict_json import kind, read_json
from langgraph_rq.shared.tasks import DEFAULT_GRAPH, GraphName, Name, Priority, QuestionId, ThreadId

_DEPTH = 101
"""Deeper than any setting allows an input to be; what is deeper is refused before it is looked at."""

UNCLEAN = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff"
"""Control characters but tab, line feed and carriage return; what is no character."""
_UNCLEAN = re.compile(rf"[{UNCLEAN}\ud800-\udfff]")

_TASK_ID = TypeAdapter(TaskId)


class Body(BaseModel):
    """The base of all bodies: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SubmitBody(Body):
    """A task: what `POST /tasks` takes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input": {"query": "What is a lease?"}, "user_id": "ann", "stream": ["messages"]}]
        }
    )

    input: Any = Field(
        None,
        description="The graph's input: an object for most graphs, null to go on with the thread. Or give a command.",
    )
    graph: GraphName = Field(
        DEFAULT_GRAPH, description="The graph to run: one that a worker has served in the last day."
    )
    task_id: TaskId | None = Field(
        None, description="Your own id, not beside an Idempotency-Key: the same task again under it runs once."
    )
    user_id: Name | None = Field(None, description="The user for whom it runs: limits and turns are per user.")
    thread_id: ThreadId | None = Field(None, description="The conversation that this continues.")
    priority: Priority = Priority.DEFAULT
    run_at: datetime | None = Field(None, description="When it starts, with the offset.")
    delay_s: float | None = Field(None, ge=0, description="Instead, how many seconds from now it starts.")
    deadline_s: float = Field(300.0, gt=0, description="End it after this time, counted from its start.")
    max_attempts: int = Field(1, ge=1, description="How often a failing graph is run at most.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Passed on to the run; not interpreted.")
    stream: list[StreamMode] = Field(
        default_factory=list, description="The stream modes of its events, besides its states."
    )
    stream_subgraphs: bool | None = Field(None, description="Whether those events tell of subgraphs too.")
    command: GraphCommand | None = Field(None, description="LangGraph's Command for the thread, instead of an input.")
    context: dict[str, Any] | None = Field(None, description="LangGraph's context of the run.")
    config: RunConfig | None = Field(None, description="LangGraph's config of the run.")
    interrupt_before: Nodes | None = Field(None, description='Nodes before which the run stops; "*" for all.')
    interrupt_after: Nodes | None = Field(None, description='Nodes after which the run stops; "*" for all.')
    checkpoint_id: CheckpointId | None = Field(None, description="The checkpoint of the thread to go on from.")
    durability: Durability | None = Field(None, description="When checkpoints are written; default sync.")

    @property
    def document(self) -> dict[str, Any]:
        """The task as far as it was described."""
        given = self.model_dump(exclude_none=True)
        return {"input": None, **given} if "input" in self.model_fields_set else given


class QueryBody(Body):
    """A question for the assistant: what `POST /query` takes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "What is a lease?", "user_id": "ann"}]})

    query: Annotated[str, StringConstraints(min_length=1)]
    user_id: Name | None = None
    thread_id: ThreadId | None = None


class ResumeBody(Body):
    """The answer to what a task was interrupted for: `value` where one question is open, else `answers` by id.

    Neither where it stopped at a breakpoint.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "not": {"required": ["value", "answers"]},
            "examples": [{"value": "yes"}, {"answers": {"9f2c4be1d0a7431f8e5b6a7c8d9e0f11": "yes"}}],
        }
    )

    value: Any = None
    answers: dict[QuestionId, Any] = Field(default_factory=dict, min_length=1)
    seen: dict[str, Any] | None = Field(
        None, description="By id, the questions as they were shown: another one by then is not answered."
    )


class StrictRequest(Request):
    """A request with strict JSON: no control characters, no extreme nesting."""

    refused: ClassVar = _UNCLEAN
    """Characters that no text holds."""

    async def json(self) -> Any:
        """Parse and check the body. Raises ProblemError 422."""
        try:
            value = read_json(await self.body())
        except ValueError as error:
            raise invalid(Violation("body", "JSON", str(error))) from None
        violations = list(_unclean(value, self.refused))
        if violations:
            raise invalid(*violations)
        return value


class StrictRoute(KnownQueryRoute):
    """A route that reads its body as `StrictRequest` does, and knows its query."""

    request_class: ClassVar = StrictRequest

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Wrap FastAPI's own handler."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            response: Response = await handle(self.request_class(request.scope, request.receive))
            return response

        return strictly


def _unclean(value: Any, refused: re.Pattern[str]) -> Iterator[Violation]:
    """Name every field that holds characters no text has, or that is nested too deeply."""
    parts: list[tuple[Any, str, int]] = [(value, "", 0)]
    while parts:
        part, path, level = parts.pop()
        if isinstance(part, str):
            found = refused.search(part)
            if found:
                yield Violation(path or "body", "text without control characters", f"U+{ord(found[0]):04X}")
        elif level > _DEPTH:
            yield Violation(path[:60], f"at most {_DEPTH} levels of nesting", "more")
        elif isinstance(part, dict):
            for name, item in part.items():
                where = f"{path}.{name}".removeprefix(".") if not refused.search(name) else f"{path}.?"
                parts += [(name, where, level), (item, where, level + 1)]
        elif isinstance(part, list):
            parts += [(item, f"{path}[{i}]", level + 1) for i, item in enumerate(part)]


async def known_form(
    task_id: Annotated[
        str, Path(description="As the receipt names it.", examples=["7541897b-8dcb-4539-ad83-7db3f43609a3"])
    ],
) -> str:
    """Accept a possible task id. Any other is answered as unknown, not as malformed, which reveals as little."""
    try:
        return _TASK_ID.validate_python(task_id)
    except ValidationError:
        raise UnknownTaskError(task_id[:60]) from None


def refuse_both(task_id: str | None, idempotency_key: str | None) -> None:
    """Refuse a request that is identified twice."""
    if task_id is not None and idempotency_key is not None:
        expected = "either an Idempotency-Key or a task_id of your own"
        raise invalid(Violation("task_id", expected, f"both: {kind(task_id)}"))

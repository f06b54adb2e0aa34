"""Problem documents (RFC 9457), the form of every error that the gateway answers with.

`type` is a constant for programs, `detail` a sentence for people; `errors` names the fields of a refused request.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.connections.scripts import ScriptNotLoadedError
from langgraph_rq.shared.errors import (
    AlreadyAnsweredError,
    ForgedResultError,
    InvalidInputError,
    LanggraphRqError,
    NotContinuableError,
    NotInterruptedError,
    QueueFullError,
    RedisUnavailableError,
    ScriptsMissingError,
    TaskConflictError,
    TenantFullError,
    ThreadBusyError,
    ThreadRequestError,
    UnknownGraphError,
    UnknownTaskError,
    Violation,
)
from langgraph_rq.shared.strict_json import kind
from langgraph_rq.shared.tasks import Task, explain
from langgraph_rq.shared.telemetry.logs import get_logger

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:langgraph-rq:problem:"

_OUTAGE = "Redis cannot be reached: nothing is lost, try again"
_OUTAGE_RETRY_S = 1
_NO_SCRIPTS = "no worker has been here since Redis started: nothing is lost, try again"

_log = get_logger(__name__)


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str = Field(examples=["deadline_s"])
    message: str = Field(examples=["deadline_s: expected greater than 0, got: -1"])


class Problem(BaseModel):
    """A problem document."""

    type: str = Field(examples=[f"{PREFIX}invalid_request"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["deadline_s: expected greater than 0, got: -1"])
    errors: list[FieldError] | None = None


class ProblemError(HTTPException):
    """Ends a request with a problem document.

    Args:
        status: Of the answer.
        kind: The last part of the document's `type`.
        detail: What happened, and what to do.
        headers: Of the answer.
        violations: The fields of a refused request.
        more: Further members of the document.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind = kind
        self.violations = violations
        self.more = more or {}

    def response(self) -> JSONResponse:
        """Write the document."""
        document: dict[str, Any] = {
            "type": PREFIX + self.kind,
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.detail,
            **self.more,
        }
        if self.violations:
            document["errors"] = [{"field": one.field, "message": str(one)} for one in self.violations]
        headers = {"Cache-Control": "no-store", **(self.headers or {})}  # of a 500 too, which passes no middleware
        return JSONResponse(document, self.status_code, headers, MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare for OpenAPI that a route answers with problems of these statuses; 401 brings 429, to many wrong keys."""
    too_many = {429} if 401 in statuses else set()
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, *too_many})
    }


def invalid(*violations: Violation) -> ProblemError:
    """Refuse a request, naming the fields."""
    return ProblemError(422, "invalid_request", "; ".join(map(str, violations)), violations=violations)


def problem_of(error: Exception) -> ProblemError | None:
    """Translate an error of this library, or an outage of Redis; None: a defect of the gateway."""
    match error:
        case ProblemError():
            return error
        case InvalidInputError():
            return invalid(*error.violations)
        case UnknownGraphError():
            return invalid(Violation("graph", f"one that a live worker serves ({error.known})", kind(error.graph)))
        case AlreadyAnsweredError():
            answered = {"answered_by": error.answered_by, "answered_at": error.answered_at}
            return ProblemError(409, "already_answered", str(error), more=to_jsonable_python(answered))
        case TaskConflictError() | ThreadBusyError():
            name = "thread_busy" if isinstance(error, ThreadBusyError) else "task_conflict"
            return ProblemError(409, name, str(error))
        case ForgedResultError():
            return ProblemError(502, "forged_result", str(error))
        case NotContinuableError() | NotInterruptedError():
            name = "not_interrupted" if isinstance(error, NotInterruptedError) else "not_continuable"
            return ProblemError(409, name, str(error))
        case UnknownTaskError():
            return ProblemError(404, "unknown_task", str(error))
        case QueueFullError() | TenantFullError():
            status, kind_ = (503, "redis_full") if isinstance(error, QueueFullError) else (429, "tenant_full")
            return ProblemError(status, kind_, str(error), headers=_retry_after(error.retry_after_s))
        case _:
            return _passing(error)


def _passing(error: Exception) -> ProblemError | None:
    """Translate a temporary failure: no worker replied in time, or Redis is away."""
    if isinstance(error, ThreadRequestError):
        return ProblemError(503, "no_answer", str(error), headers=_retry_after(_OUTAGE_RETRY_S))
    if not (isinstance(error, RedisUnavailableError) or is_outage(error)):
        return None
    detail = _NO_SCRIPTS if isinstance(error, ScriptsMissingError | ScriptNotLoadedError) else _OUTAGE
    retry_after_s = error.retry_after_s if isinstance(error, RedisUnavailableError) else _OUTAGE_RETRY_S
    return ProblemError(503, "redis_unavailable", detail, headers=_retry_after(retry_after_s))


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(ceil(seconds))}


def _explain(problem: Any, model: type[BaseModel]) -> Violation:
    """Describe what is wrong with a field of the body, with a parameter, or with the body as such."""
    if len(problem["loc"]) == 1:
        if (limits := problem.get("ctx", {})).keys() & {"min_length", "max_length"}:
            return Violation("body", f"a list of {_length(limits)}", kind(problem["input"]))
        return Violation("body", "a JSON object with Content-Type: application/json", kind(problem["input"]))
    inner: Any = {**problem, "loc": problem["loc"][1:]}
    return explain(inner, model)


def _length(limits: Mapping[str, Any]) -> str:
    return f"{limits['min_length']} or more" if "min_length" in limits else f"at most {limits['max_length']}"


def _methods(routes: Sequence[BaseRoute], request: Request) -> set[str]:
    """Return the methods of all routes of a path."""
    found: set[str] = set()
    for route in routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error with a problem document; `routes` are all of the application."""

    async def ours(_request: Request, error: Exception) -> JSONResponse:
        problem = problem_of(error)
        if problem is None:
            _log.error("request.failed", exc_info=error)
            problem = ProblemError(500, "internal_error", "the gateway made a mistake; its log has more")
        return problem.response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, ProblemError):
            return error.response()
        name = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # Starlette names those of the first route only
            headers["Allow"] = ", ".join(sorted(_methods(routes, request)))
        return ProblemError(error.status_code, name, str(error.detail), headers=headers).response()

    async def validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        body = getattr(request.scope.get("route"), "body_field", None)
        model = body.field_info.annotation if body else Task
        return invalid(*dict.fromkeys(_explain(problem, model) for problem in error.errors())).response()

    for base in (LanggraphRqError, RedisError, Exception):
        app.add_exception_handler(base, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)

"""What the real APIs answer to a request that they refuse: OpenAI's error documents and Anthropic's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error reply; `type`, `code` and `param` are OpenAI's. Anthropic's type follows from the status."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None


class ApiError(Exception):
    """The API refuses the request."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, *, status: int = 400) -> None:
        super().__init__(message)
        self.reply = ErrorReply(status, "invalid_request_error", code, message, param)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an API names a request's id and writes an error.

    Args:
        id_header: The response header with the request's id.
        document: The error and the request's id -> the body.
    """

    id_header: bytes
    document: Callable[[ErrorReply, str], Json]


def _openai_document(error: ErrorReply, _request_id: str) -> Json:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _anthropic_document(error: ErrorReply, request_id: str) -> Json:
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(error.status, other)
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


OPENAI = Dialect(b"x-request-id", _openai_document)
ANTHROPIC = Dialect(b"request-id", _anthropic_document)

"""Which API answers a request: path, key, and the model, if the server has a list of them."""

from collections.abc import Callable, Mapping, Sequence

from pydantic_core import from_json

from langgraph_rq.worker.dev.offline_model.apis.anthropic_messages import MessagesApi
from langgraph_rq.worker.dev.offline_model.apis.chat_completions import complete_chat
from langgraph_rq.worker.dev.offline_model.apis.embeddings import embed
from langgraph_rq.worker.dev.offline_model.apis.responses import ResponsesApi
from langgraph_rq.worker.dev.offline_model.errors import ANTHROPIC, OPENAI, ApiError, Dialect, ErrorReply, Json
from langgraph_rq.worker.dev.offline_model.replies import ApiRequest, Exchange, error_reply, json_reply

DEFAULT_MODELS = (
    "gpt-4o-mini",
    "gpt-4o",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "claude-haiku-4-5",
    "claude-opus-4-8",
)
"""The models that /v1/models lists where the server has no list of its own; any other name is accepted as well."""

KEY_HEADERS = frozenset((b"authorization", b"x-api-key", b"anthropic-version"))
"""The headers that the APIs read."""

_MODELS = "/v1/models"


class Routes:
    """The APIs by their paths.

    Args:
        models: The models that exist; others are refused as unknown. Empty: any name is accepted.
    """

    def __init__(self, models: Sequence[str] = ()) -> None:
        self._models = frozenset(models)
        self._listed = tuple(models) or DEFAULT_MODELS
        messages = MessagesApi()
        self._posts: dict[str, Callable[[ApiRequest], Exchange]] = {
            "/v1/chat/completions": complete_chat,
            "/v1/embeddings": embed,
            "/v1/messages": messages.create,
            "/v1/messages/count_tokens": messages.count,
            "/v1/responses": ResponsesApi().respond,
        }

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[bytes, str], request_id: str) -> Exchange:
        """Answer a request; what the API refuses is an error reply.

        `headers` are those of `KEY_HEADERS` that it has; the reply's ids are made of `request_id`.
        """
        dialect = _dialect_of(path, headers)
        model = None
        try:
            _check_key(dialect, headers)
            if method == "GET" and path.startswith(_MODELS):
                return self._list(path.removeprefix(_MODELS).strip("/"), dialect)
            api = self._posts.get(path) if method == "POST" else None
            if api is None:
                raise self._unknown_route(method, path)
            value = _object(body)
            model = value.get("model")
            self._check_model(dialect, model)
            return api(ApiRequest(value, headers, request_id))
        except ApiError as error:
            reply = error.reply
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            # A field does not have the API's shape.
            message = f"not a valid request: {type(error).__name__}: {error}"
            reply = ErrorReply(400, "invalid_request_error", None, message)
        named = model if isinstance(model, str) else ""
        return Exchange(error_reply(reply, dialect, f"req_{request_id}"), named, dialect=dialect)

    def _unknown_route(self, method: str, path: str) -> ApiError:
        known = ", ".join([*(f"POST {one}" for one in self._posts), f"GET {_MODELS}"])
        return ApiError(f"Invalid URL ({method} {path}): expected one of {known}", status=404)

    def _check_model(self, dialect: Dialect, model: object) -> None:
        if not self._models or not isinstance(model, str) or model in self._models:
            return
        if dialect is ANTHROPIC:
            raise ApiError(f"model: {model}", status=404)
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise ApiError(message, None, "model_not_found", status=404)

    def _list(self, name: str, dialect: Dialect) -> Exchange:
        """Answer /v1/models and /v1/models/{id}."""
        if name and self._models and name not in self._models:
            if dialect is ANTHROPIC:
                raise ApiError(f"model: {name}", status=404)
            raise ApiError(f"The model '{name}' does not exist", "model", "model_not_found", status=404)
        describe = _anthropic_model if dialect is ANTHROPIC else _openai_model
        if name:
            return Exchange(json_reply(describe(name)), dialect=dialect)
        listed: Json = {"data": [describe(one) for one in self._listed]}
        if dialect is ANTHROPIC:
            listed |= {"has_more": False, "first_id": self._listed[0], "last_id": self._listed[-1]}
        else:
            listed |= {"object": "list"}
        return Exchange(json_reply(listed), dialect=dialect)


def _openai_model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "offline"}


def _anthropic_model(name: str) -> Json:
    return {"id": name, "type": "model", "display_name": name, "created_at": "2026-01-01T00:00:00Z"}


def _object(body: bytes) -> Json:
    try:
        value = from_json(body)
    except ValueError as error:
        raise ApiError(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(value, dict):
        raise ApiError("We could not parse the JSON body of your request: expected a JSON object.")
    return value


def _dialect_of(path: str, headers: Mapping[bytes, str]) -> Dialect:
    is_shared = path.startswith(_MODELS) and b"anthropic-version" in headers
    return ANTHROPIC if is_shared or path.startswith("/v1/messages") else OPENAI


def _check_key(dialect: Dialect, headers: Mapping[bytes, str]) -> None:
    """Refuse a request without a key; any key will do."""
    scheme, _, key = headers.get(b"authorization", "").partition(" ")
    has_bearer = scheme.lower() == "bearer" and bool(key.strip())
    if dialect is ANTHROPIC:
        if not has_bearer and not headers.get(b"x-api-key"):
            raise ApiError("x-api-key header is required", status=401)
        if not headers.get(b"anthropic-version"):
            raise ApiError("anthropic-version: header is required")
    elif not has_bearer:
        raise ApiError(
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY).",
            status=401,
        )

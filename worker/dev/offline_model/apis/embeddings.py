"""OpenAI's /v1/embeddings: texts or token ids, as lists of floats or base64 of little-endian 32-bit floats."""

import base64
from array import array
from typing import Any

from langgraph_rq.worker.dev.offline_model.answers import embedding
from langgraph_rq.worker.dev.offline_model.apis.checks import check_fields, missing, model_of, unknown_value
from langgraph_rq.worker.dev.offline_model.chat_request import tokens
from langgraph_rq.worker.dev.offline_model.errors import ApiError, ErrorReply
from langgraph_rq.worker.dev.offline_model.replies import ApiRequest, Exchange, json_reply

_FIELDS = frozenset(("dimensions", "encoding_format", "input", "model", "user"))

_DIMENSIONS = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS = 1536

_INPUTS = 2_048
_INPUT_TOKENS = 8_192
_REQUEST_TOKENS = 300_000
"""The API's limits: inputs of a request, tokens of an input and of a request."""


def embed(api_request: ApiRequest) -> Exchange:
    """Answer /v1/embeddings."""
    body = api_request.body
    model = model_of(body)
    check_fields(body, _FIELDS)
    if body.get("input") is None:
        raise missing("input")
    inputs = _inputs(body["input"])
    input_tokens = _count(inputs)
    dimensions = body.get("dimensions") or _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    most = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= most:
        raise ApiError(f"Invalid value for 'dimensions' = {dimensions}. Must be between 1 and {most}.", "dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in {"float", "base64"}:
        raise unknown_value("encoding_format", encoding, ("float", "base64"))
    texts = [one if isinstance(one, str) else " ".join(map(str, one)) for one in inputs]
    vectors: list[Any] = [embedding(text, dimensions) for text in texts]
    if encoding == "base64":
        vectors = [base64.b64encode(array("f", vector).tobytes()).decode() for vector in vectors]
    value = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
        "model": model,
        "usage": {"prompt_tokens": input_tokens, "total_tokens": input_tokens},
    }
    return Exchange(json_reply(value)._replace(billed=True), model, "\n".join(texts), input_tokens)


def _inputs(value: Any) -> list[str | list[int]]:
    """Validate the input: a text, token ids, or a list of either."""
    many = value if isinstance(value, list) and not all(isinstance(one, int) for one in value) else [value]
    if not value or len(many) > _INPUTS or not all(isinstance(one, str | list) and one for one in many):
        raise ApiError("'$.input' is invalid. Please check the API reference.", "input")
    return many


def _count(inputs: list[str | list[int]]) -> int:
    counts = [tokens(one) if isinstance(one, str) else len(one) for one in inputs]
    longest, total = max(counts), sum(counts)
    if longest > _INPUT_TOKENS:
        raise ApiError(
            f"This model's maximum context length is {_INPUT_TOKENS} tokens, however you requested {longest} tokens "
            f"({longest} in your prompt; 0 for the completion). Please reduce your prompt; or completion length."
        )
    if total > _REQUEST_TOKENS:
        kind = "max_tokens_per_request"
        error = ApiError(f"Requested {total} tokens, max {_REQUEST_TOKENS} tokens per request")
        error.reply = ErrorReply(400, kind, kind, str(error))
        raise error
    return total

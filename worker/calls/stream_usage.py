"""Let unchanged ChatOpenAI models ask for the usage of their streams.

ChatOpenAI asks for it only where it calls OpenAI itself: with a base URL or an HTTP client of the graph's own,
`stream_usage` stays None, and such a stream is charged by its text. The class is patched, in worker processes only, as
the models of a graph cannot be reached otherwise. What a graph sets itself, true or false, stays.

An endpoint that rejects the option is called again without it, and is not asked again by this process.
"""

import functools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from typing import Any

from langgraph_rq.shared.telemetry.logs import get_logger

_REJECTED = {400, 422}
"""What endpoints answer to an option that they do not know; neither is billed."""

_log = get_logger(__name__)
_rejecting: set[str | None] = set()
"""Base URLs of endpoints that reject the option."""


def ask_for_usage() -> None:
    """Patch the class, if a graph has imported it and it is built as expected; a second call changes nothing."""
    module = sys.modules.get("langchain_openai.chat_models.base")
    model: Any = getattr(module, "BaseChatOpenAI", None)
    if hasattr(model, "_should_stream_usage") and not hasattr(model._stream, "__wrapped__"):  # noqa: SLF001
        model._stream = _asking(model._stream)  # noqa: SLF001 - LangChain's extension points have private names
        model._astream = _asking_async(model._astream)  # noqa: SLF001


def _asking(stream: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(stream)
    def asking(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        given, has_begun = _asked(self, kwargs), False
        try:
            with closing(stream(self, *args, **given)) as chunks:
                for chunk in chunks:
                    has_begun = True
                    yield chunk
        except Exception as error:
            if has_begun or given is kwargs or not _may_be_rejected(error):
                raise
        else:
            return
        with closing(stream(self, *args, **kwargs)) as chunks:
            for chunk in chunks:
                _remember(self)
                yield chunk

    return asking


def _asking_async(stream: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(stream)
    async def asking(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        given, has_begun = _asked(self, kwargs), False
        try:
            async with aclosing(stream(self, *args, **given)) as chunks:
                async for chunk in chunks:
                    has_begun = True
                    yield chunk
        except Exception as error:
            if has_begun or given is kwargs or not _may_be_rejected(error):
                raise
        else:
            return
        async with aclosing(stream(self, *args, **kwargs)) as chunks:
            async for chunk in chunks:
                _remember(self)
                yield chunk

    return asking


def _asked(model: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Add the option, or return the same parameters where the graph or the endpoint has decided."""
    options = parameters.get("stream_options") or (model.model_kwargs or {}).get("stream_options")
    is_set = options or model.stream_usage is not None or parameters.get("stream_usage") is not None
    return parameters if is_set or model.openai_api_base in _rejecting else {**parameters, "stream_usage": True}


def _may_be_rejected(error: Exception) -> bool:
    return getattr(error, "status_code", None) in _REJECTED


def _remember(model: Any) -> None:
    """Remember an endpoint that has answered without the option and not with it."""
    if model.openai_api_base not in _rejecting:
        _rejecting.add(model.openai_api_base)
        _log.info("stream_usage.rejected")

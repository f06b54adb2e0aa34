"""Let models of LangChain tell the rates that their provider allows, which it sends with each answer.

LangChain drops an answer's headers. So the classes of OpenAI and Anthropic are patched, in worker processes only:
before a call, its HTTP client gets a hook that reads the headers of each answer, for guarded and unchanged models
alike. A model of another class, or a call with a model of its own (`model=`), tells nothing.
"""

import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from langgraph_rq.shared.pacing.learned_rates import read_headers
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.guards.task_guard import current_task

_CLASSES = {
    "langchain_openai.chat_models.base": ("BaseChatOpenAI", "root_client", "root_async_client"),
    "langchain_anthropic.chat_models": ("ChatAnthropic", "_client", "_async_client"),
}
"""Module -> a class, and its attributes that hold the provider's sync and async client."""
_METHODS = {"_generate": False, "_stream": False, "_agenerate": True, "_astream": True}
"""LangChain's extension points -> whether they use the async client."""

_log = get_logger(__name__)
_caller: ContextVar[Any] = ContextVar("calling_model", default=None)
"""The model whose call runs in this context."""


def read_rate_headers() -> None:
    """Patch the classes that a graph has imported and that are built as expected; a second call changes nothing."""
    for module, (name, *clients) in _CLASSES.items():
        model: Any = getattr(sys.modules.get(module), name, None)
        for method, is_async in _METHODS.items():
            own = vars(model).get(method) if model else None
            if own and not hasattr(own, "reads_rate_headers"):
                setattr(model, method, _reading(own, clients[is_async], is_async=is_async))


def _reading(method: Callable[..., Any], client: str, *, is_async: bool) -> Callable[..., Any]:
    hook = _read_async if is_async else _read

    @functools.wraps(method)
    def reading(self: Any, *args: Any, **kwargs: Any) -> Any:
        hooks = getattr(getattr(getattr(self, client, None), "_client", None), "event_hooks", None)
        if hooks and hook not in hooks["response"]:
            hooks["response"].append(hook)
        _caller.set(None if "model" in kwargs else self)
        return method(self, *args, **kwargs)

    reading.reads_rate_headers = True  # type: ignore[attr-defined]
    return reading


def _read(response: Any) -> None:
    model, task = _caller.get(), current_task.get()
    if model is None or task is None:
        return
    try:  # whatever a provider sends, its answer counts
        pace = read_headers(response.headers)
        if pace:
            about = model._get_ls_params()  # noqa: SLF001 - LangChain's own source for tracers
            task.guards.learn_pace(f"{about.get('ls_provider') or 'model'}/{about.get('ls_model_name')}", pace)
    except Exception:
        _log.exception("rate.not_learned")


async def _read_async(response: Any) -> None:
    _read(response)

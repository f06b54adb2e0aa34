"""`guarded_chat_model`: any LangChain chat model, with breaker, budget, retries and fallback models around each call.

It is an instance of a subclass of the model's own class, so tools, structured output and everything else that the model
can do work as before. It always sets an output limit, so that the budget cannot be overshot by it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from pydantic import PrivateAttr

from shared.circuit_breaker import Outcome
from worker.bounds import input_bound
from worker.guards import Guards, TaskGuard, Used, current_task
from worker.model_call import Called, CallLimits, Target, call_models, settle_failure
from worker.refusals import Refusal

GUARDED = "langgraph_rq_guarded"
"""In a model's metadata: its calls are guarded already."""

OUTPUT_TOKENS = 1_024
"""The output limit of a model that has none."""

_LIMIT_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")

M = TypeVar("M", bound=BaseChatModel)
_END: Any = object()


@dataclass(frozen=True, slots=True)
class _Inner:
    """A model behind the guard: what it is called, and what it may write."""

    model: BaseChatModel
    name: str
    breaker: str
    output_tokens: int


def guarded_chat_model(
    model: M, fallbacks: Sequence[BaseChatModel] = (), *, limits: CallLimits | None = None, guards: Guards | None = None
) -> M:
    """Guard a chat model: `model` is called first, then `fallbacks` in turn, when it cannot be used.

    Args:
        model: Any chat model. Its own retries are switched off; ours know the breaker and the deadline.
        fallbacks: Models of the same class: tools and schemas are encoded once, as the class does it.
        limits: Attempts, timeout, longest wait.
        guards: Only outside of a worker, where there is no task to find them by.

    Returns:
        A model of the same class, for `invoke`, `ainvoke`, `stream`, `astream`, `batch`, tools, structured output.
        Its calls raise `worker.refusals.ProviderUnavailableError` when no model can be used, and a `Refusal`, which
        ends the run, when the budget is spent.

    Raises:
        TypeError: a fallback is of another class.
    """
    for fallback in fallbacks:
        if not isinstance(fallback, type(model)):
            raise TypeError(f"expected fallbacks to be {type(model).__name__} too, got: {type(fallback).__name__}")
    # Constructed from its fields as they are: clients are shared, and nothing is validated twice.
    fields = {**model.__dict__, "metadata": {**(model.metadata or {}), GUARDED: True}}
    guarded: Any = _guarded_class(type(model)).model_construct(model.model_fields_set, **fields)
    guarded._inner = tuple(_inner(one) for one in cast(tuple[BaseChatModel, ...], (model, *fallbacks)))
    guarded._limits = limits or CallLimits()
    guarded._guards = guards
    return guarded  # type: ignore[no-any-return]


class _CarriedRefusal(Exception):  # noqa: N818 - only the way of a refusal through LangChain
    """A refusal on its way through `BaseChatModel`, which takes a BaseException that a call raised for a result."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class _GuardedMixin(BaseChatModel):
    """The methods by which LangChain calls a model, each guarded; the rest is the model's own class."""

    # LangChain calls these methods of a model; they are how it is extended, in spite of their names.
    # ruff: noqa: SLF001
    _inner: tuple[_Inner, ...] = PrivateAttr(default=())
    _limits: CallLimits = PrivateAttr(default_factory=CallLimits)
    _guards: Guards | None = PrivateAttr(default=None)

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Call the model for many prompts, as LangChain does; see `_CarriedRefusal`."""
        with _delivered():
            return await super().agenerate(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Call the model for many prompts, as LangChain does; see `_CarriedRefusal`."""
        with _delivered():
            return super().generate(*args, **kwargs)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        """Stream the model's answer, as LangChain does; see `_CarriedRefusal`."""
        with _delivered():
            async for chunk in super().astream(*args, **kwargs):
                yield chunk

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[AIMessageChunk]:
        """Stream the model's answer, as LangChain does; see `_CarriedRefusal`."""
        with _delivered():
            yield from super().stream(*args, **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        guards, task = self._who()

        def step(inner: _Inner) -> Any:
            return partial(inner.model._agenerate, messages, stop, run_manager, **_with_limit(inner, kwargs))

        with _carried():
            return await guards.run_here(self._generate_with(guards, task, messages, kwargs, step))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        guards, task = self._who()

        def step(inner: _Inner) -> Any:
            call = partial(inner.model._generate, messages, stop, run_manager, **_with_limit(inner, kwargs))
            return partial(asyncio.to_thread, call)

        with _carried():
            return guards.run_sync(self._generate_with(guards, task, messages, kwargs, step))

    async def _generate_with(
        self,
        guards: Guards,
        task: TaskGuard,
        messages: list[BaseMessage],
        kwargs: Mapping[str, Any],
        step: Callable[[_Inner], Any],
    ) -> ChatResult:
        called: Called[ChatResult] = await call_models(
            guards, task, self._targets(messages, kwargs, step), self._limits
        )
        await guards.settle(task, called.admitted, Outcome.OK, read_usage(called.value))
        return called.value

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        guards, task = self._who()

        def step(inner: _Inner) -> Any:
            call = partial(inner.model._astream, messages, stop, run_manager, **_with_limit(inner, kwargs))
            return partial(_begin, call)

        targets = self._targets(messages, kwargs, step)
        with _carried():
            called = await guards.run_here(call_models(guards, task, targets, self._limits))
        first, rest = called.value
        meter = _StreamMeter()
        try:
            chunk = first
            while chunk is not _END:
                meter.count(chunk)
                yield chunk
                chunk = await anext(rest, _END)
        except BaseException as error:
            await guards.run_here(settle_failure(guards, task, called.admitted, error))
            raise
        await guards.run_here(guards.settle(task, called.admitted, Outcome.OK, meter.used))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        guards, task = self._who()

        def step(inner: _Inner) -> Any:
            call = partial(inner.model._stream, messages, stop, run_manager, **_with_limit(inner, kwargs))
            return partial(asyncio.to_thread, _begin_sync, call)

        with _carried():
            called = guards.run_sync(call_models(guards, task, self._targets(messages, kwargs, step), self._limits))
        first, rest = called.value
        meter = _StreamMeter()
        try:
            chunk = first
            while chunk is not _END:
                meter.count(chunk)
                yield chunk
                chunk = next(rest, _END)
        except BaseException as error:
            guards.run_sync(settle_failure(guards, task, called.admitted, error))
            raise
        guards.run_sync(guards.settle(task, called.admitted, Outcome.OK, meter.used))

    def _who(self) -> tuple[Guards, TaskGuard]:
        task = current_task.get()
        guards = self._guards or (task.guards if task else None)
        if guards is None:
            raise RuntimeError("a guarded model is called outside of a worker's task: give it guards=Guards(...)")
        return guards, task or TaskGuard(guards)

    def _targets(
        self, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any], step: Callable[[_Inner], Any]
    ) -> list[Target[Any]]:
        bound = input_bound(messages, kwargs)
        return [
            Target(inner.breaker, inner.name, (bound, _limit(kwargs) or inner.output_tokens), step(inner))
            for inner in self._inner
        ]


@contextmanager
def _carried() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise _CarriedRefusal(refusal) from refusal


@contextmanager
def _delivered() -> Iterator[None]:
    try:
        yield
    except _CarriedRefusal as carried:
        raise carried.refusal from carried.refusal.__cause__


@dataclass(slots=True)
class _StreamMeter:
    """Adds up what a stream says that it used; None while it said nothing."""

    used: Used | None = None

    def count(self, chunk: ChatGenerationChunk) -> None:
        usage: UsageMetadata | None = getattr(chunk.message, "usage_metadata", None)
        if usage:
            more = used_of(usage)
            before = self.used or Used(0, 0)
            self.used = Used(
                before.input_tokens + more.input_tokens,
                before.output_tokens + more.output_tokens,
                before.cached_input_tokens + more.cached_input_tokens,
                before.cache_write_tokens + more.cache_write_tokens,
            )


def read_usage(result: ChatResult) -> Used | None:
    """Read what a call used from its result; None where the provider did not say."""
    for generation in result.generations:
        usage = getattr(generation.message, "usage_metadata", None) if isinstance(generation, ChatGeneration) else None
        if usage:
            return used_of(usage)
    return None


def used_of(usage: UsageMetadata) -> Used:
    """Read LangChain's usage metadata."""
    details = usage.get("input_token_details", {})
    cached, written = details.get("cache_read") or 0, details.get("cache_creation") or 0
    return Used(usage["input_tokens"], usage["output_tokens"], cached, written)


@cache
def _guarded_class(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    return type(f"Guarded{kind.__name__}", (_GuardedMixin, kind), {"__module__": __name__})


def _inner(model: BaseChatModel) -> _Inner:
    model = _without_retries(model)
    about = model._get_ls_params()
    name = str(about.get("ls_model_name") or getattr(model, "model", "") or model._llm_type)
    provider = str(about.get("ls_provider") or "model")
    return _Inner(model, name, f"{provider}/{name}", about.get("ls_max_tokens") or OUTPUT_TOKENS)


def _without_retries(model: BaseChatModel) -> BaseChatModel:
    """Copy a model with its SDK's retries off and usage in streams on, where it has such settings."""
    changed: dict[str, Any] = {}
    fields = type(model).model_fields
    if "max_retries" in fields:
        changed["max_retries"] = 0
    if "stream_usage" in fields:
        changed["stream_usage"] = True
    for name in ("root_client", "root_async_client"):
        client = getattr(model, name, None)
        if client is not None:
            changed[name] = client.with_options(max_retries=0)
            changed[name.replace("root_", "")] = changed[name].chat.completions
    return model.model_copy(update=changed)


def _limit(kwargs: Mapping[str, Any]) -> int | None:
    return next((kwargs[name] for name in _LIMIT_NAMES if kwargs.get(name)), None)


def _with_limit(inner: _Inner, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(kwargs) if _limit(kwargs) else {**kwargs, "max_tokens": inner.output_tokens}


async def _begin(
    call: Callable[[], AsyncIterator[ChatGenerationChunk]],
) -> tuple[Any, AsyncIterator[ChatGenerationChunk]]:
    """Open a stream and wait for its first chunk: until then it can be tried again, or elsewhere."""
    chunks = call()
    return await anext(chunks, _END), chunks


def _begin_sync(call: Callable[[], Iterator[ChatGenerationChunk]]) -> tuple[Any, Iterator[ChatGenerationChunk]]:
    chunks = call()
    return next(chunks, _END), chunks

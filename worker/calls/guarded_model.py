"""`guarded_chat_model`: any LangChain chat model, with breaker, budget, retries and fallback models around each call.

The result is an instance of a subclass of the model's own class, so tools, structured output and all other features of
the model work as before. Each call gets an output limit, so that it cannot use more than it reserved.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from functools import cache, partial
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from pydantic import PrivateAttr

from langgraph_rq.shared.breaker.circuit_breaker import Outcome
from langgraph_rq.worker.calls.announced_models import note_model
from langgraph_rq.worker.calls.inner_model import InnerModel
from langgraph_rq.worker.calls.model_call import Called, CallLimits, Target, call_models, settle_failure
from langgraph_rq.worker.calls.model_usage import StreamMeter, answer_bytes, read_usage
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.refusals import Refusal
from langgraph_rq.worker.guards.task_guard import Admitted, TaskGuard, find_guards

GUARDED = "langgraph_rq_guarded"
"""Key in a model's metadata: the callback handler skips its calls, which are guarded already."""

M = TypeVar("M", bound=BaseChatModel)
_END: Any = object()


def guarded_chat_model(
    model: M, fallbacks: Sequence[BaseChatModel] = (), *, limits: CallLimits | None = None, guards: Guards | None = None
) -> M:
    """Guard a chat model: `model` is called first, then `fallbacks` in turn, when it cannot be used.

    Args:
        model: Any chat model. Retries of its SDK are switched off: the guards retry instead, and respect the breaker
            and the deadline.
        fallbacks: Models of the same class, because tools and schemas are encoded once, for that class.
        limits: Attempts, timeout, longest wait.
        guards: Needed only outside of a worker; inside, the task's guards are used.

    Returns:
        A model of the same class, for `invoke`, `ainvoke`, `stream`, `astream`, `batch`, tools, structured output.
        Its calls raise `ProviderUnavailableError` when no model can be used, and a `Refusal`, which
        ends the task, when the budget is spent.

    Raises:
        TypeError: a fallback is of another class.
    """
    for fallback in fallbacks:
        if not isinstance(fallback, type(model)):
            raise TypeError(f"expected fallbacks to be {type(model).__name__} too, got: {type(fallback).__name__}")
    # Constructed without validation: the clients are shared, and the fields are valid already.
    fields = {**model.__dict__, "metadata": {**(model.metadata or {}), GUARDED: True}}
    guarded: Any = _guarded_class(type(model)).model_construct(model.model_fields_set, **fields)
    guarded._inner = (
        InnerModel.of(model, is_fallback=False),
        *(InnerModel.of(fallback, is_fallback=True) for fallback in fallbacks),
    )
    guarded._limits = limits or CallLimits()
    guarded._guards = guards
    first, *others = guarded._inner
    note_model(first.breaker(first.name), guarded._limits.attempts, [other.name for other in others])
    return guarded  # type: ignore[no-any-return]


class _CarriedRefusal(Exception):  # noqa: N818 - never leaves this module
    """Carries a refusal through `BaseChatModel`, which mistakes a BaseException for the result of a call."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class _GuardedMixin(BaseChatModel):
    """Guards the methods through which LangChain calls a model; all others are those of the model's own class."""

    # LangChain's extension points have private names.
    # ruff: noqa: SLF001
    _inner: tuple[InnerModel, ...] = PrivateAttr(default=())
    _limits: CallLimits = PrivateAttr(default_factory=CallLimits)
    _guards: Guards | None = PrivateAttr(default=None)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return False: a deserialised copy would have no guards."""
        return False

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Call the model for several prompts; unwrap a `_CarriedRefusal`."""
        with _delivered():
            return await super().agenerate(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Call the model for several prompts; unwrap a `_CarriedRefusal`."""
        with _delivered():
            return super().generate(*args, **kwargs)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        """Stream the model's answer; unwrap a `_CarriedRefusal`."""
        with _delivered():
            async with aclosing(cast(Any, super().astream(*args, **kwargs))) as chunks:
                async for chunk in chunks:
                    yield chunk

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[AIMessageChunk]:
        """Stream the model's answer; unwrap a `_CarriedRefusal`."""
        with _delivered(), closing(cast(Any, super().stream(*args, **kwargs))) as chunks:
            yield from chunks

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        guards, task = find_guards(self._guards, "a guarded model is")

        def step(inner: InnerModel, admitted: Admitted) -> Any:
            return inner.model._agenerate(messages, stop, run_manager, **inner.limited(kwargs, admitted.granted_tokens))

        targets = self._targets(messages, kwargs, step)
        with _carried():
            generating = _generate_with(guards, task, targets, self._limits, _parent(run_manager))
            return await guards.loops.run_here(generating)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        guards, task = find_guards(self._guards, "a guarded model is")

        def step(inner: InnerModel, admitted: Admitted) -> Any:
            limited = inner.limited(kwargs, admitted.granted_tokens)
            return asyncio.to_thread(inner.model._generate, messages, stop, run_manager, **limited)

        targets = self._targets(messages, kwargs, step)
        with _carried():
            return guards.loops.run_sync(_generate_with(guards, task, targets, self._limits, _parent(run_manager)))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        guards, task = find_guards(self._guards, "a guarded model is")

        def step(inner: InnerModel, admitted: Admitted) -> Any:
            limited = inner.limited(kwargs, admitted.granted_tokens)
            return _begin(partial(inner.model._astream, messages, stop, run_manager, **limited))

        targets = self._targets(messages, kwargs, step)
        with _carried():
            calling = call_models(guards, task, targets, self._limits, _parent(run_manager))
            called = await guards.loops.run_here(calling)
        chunk, rest = called.value
        guards.report_first_chunk(called.admitted)
        meter = StreamMeter()
        try:
            while chunk is not _END:
                meter.count(chunk)
                yield chunk
                chunk = await guards.loops.run_here(_next(rest))  # in the loop that owns the connection
        except BaseException as error:
            called.admitted.received_bytes = meter.received_bytes
            await guards.loops.run_here(_close(rest))
            await guards.loops.run_here(settle_failure(guards, task, called.admitted, error))
            raise
        called.admitted.received_bytes = meter.received_bytes
        await guards.loops.run_here(guards.settle(task, called.admitted, Outcome.OK, meter.used))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        guards, task = find_guards(self._guards, "a guarded model is")

        def step(inner: InnerModel, admitted: Admitted) -> Any:
            limited = inner.limited(kwargs, admitted.granted_tokens)
            call = partial(inner.model._stream, messages, stop, run_manager, **limited)
            return asyncio.to_thread(_begin_sync, call)

        targets = self._targets(messages, kwargs, step)
        with _carried():
            called = guards.loops.run_sync(call_models(guards, task, targets, self._limits, _parent(run_manager)))
        chunk, rest = called.value
        guards.report_first_chunk(called.admitted)
        meter = StreamMeter()
        try:
            while chunk is not _END:
                meter.count(chunk)
                yield chunk
                chunk = next(rest, _END)
        except BaseException as error:
            called.admitted.received_bytes = meter.received_bytes
            rest.close()
            guards.loops.run_sync(settle_failure(guards, task, called.admitted, error))
            raise
        called.admitted.received_bytes = meter.received_bytes
        guards.loops.run_sync(guards.settle(task, called.admitted, Outcome.OK, meter.used))

    def _targets(
        self, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any], step: Callable[[InnerModel, Admitted], Any]
    ) -> list[Target[Any]]:
        return [
            Target(inner.breaker(name), name, inner.size(messages, kwargs), partial(step, inner))
            for inner in self._inner
            for name in [inner.called(kwargs)]
        ]


def _parent(run_manager: BaseRunManager | None) -> UUID | None:
    """Return the LangChain run in which a model is called."""
    return run_manager.parent_run_id if run_manager else None


async def _generate_with(
    guards: Guards,
    task: TaskGuard,
    targets: Sequence[Target[ChatResult]],
    limits: CallLimits,
    parent_run_id: UUID | None,
) -> ChatResult:
    called: Called[ChatResult] = await call_models(guards, task, targets, limits, parent_run_id)
    used = read_usage(called.value)
    if used is None:
        called.admitted.received_bytes = answer_bytes(called.value)
    await guards.settle(task, called.admitted, Outcome.OK, used)
    return called.value


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


@cache
def _guarded_class(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    # LangChain looks for these methods to know whether a model can stream: the mixin must not add missing ones.
    missing = {name: getattr(BaseChatModel, name) for name in _STREAMS if _lacks(kind, name)}
    return type(f"Guarded{kind.__name__}", (_GuardedMixin, kind), {"__module__": __name__, **missing})


_STREAMS = ("_stream", "_astream")


def _lacks(kind: type[BaseChatModel], name: str) -> bool:
    return getattr(kind, name) is getattr(BaseChatModel, name)


async def _begin(
    call: Callable[[], AsyncIterator[ChatGenerationChunk]],
) -> tuple[Any, AsyncIterator[ChatGenerationChunk]]:
    """Open a stream and wait for its first chunk: until then it can be retried, or another model called."""
    chunks = call()
    return await anext(chunks, _END), chunks


def _begin_sync(call: Callable[[], Iterator[ChatGenerationChunk]]) -> tuple[Any, Iterator[ChatGenerationChunk]]:
    chunks = call()
    return next(chunks, _END), chunks


async def _next(chunks: AsyncIterator[ChatGenerationChunk]) -> Any:
    return await anext(chunks, _END)


async def _close(chunks: Any) -> None:
    await chunks.aclose()

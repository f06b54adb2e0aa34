"""Replay the recorded answers of chat models when a node runs again, for guarded and unchanged models alike.

LangChain calls every chat model through four methods of one class. They are patched, in worker processes only and if
`LGRQ_ANSWER_JOURNAL` is set, as the models of a graph cannot be reached otherwise. An answer is recorded before the
node gets it. When it is recorded already, a copy of the model answers with it, through all of LangChain's callbacks: it
is not admitted, not sent, not charged. A stream is recorded at its end and replayed as one chunk.

Not recorded: a `generate` of several prompts at once, a stream that its reader leaves, LangChain's `stream_events`.
"""

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import cache, partial, reduce
from operator import add
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from pydantic import BaseModel, PrivateAttr

from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.calls.guarded_model import GUARDED
from langgraph_rq.worker.guards.task_guard import TaskGuard, current_task
from langgraph_rq.worker.records.journal import AnswerJournal
from langgraph_rq.worker.records.position import digest

_ABOUT_THE_RUN = ("callbacks", "tags", "metadata", "run_name", "run_id")
"""Parameters of `generate` that are none of the request."""
_ENDPOINTS = ("openai_api_base", "anthropic_api_url", "azure_endpoint", "base_url")
"""Fields of models that say where they are called, and that are none of a request's parameters."""
_log = get_logger(__name__)

Messages = Sequence[BaseMessage]


def replay_answers() -> None:
    """Patch LangChain's class of chat models; a second call changes nothing."""
    for name, patch in _PATCHES.items():
        own = getattr(BaseChatModel, name)
        if not hasattr(own, "replays"):
            patched: Any = functools.wraps(own)(patch(own))
            patched.replays = True
            setattr(BaseChatModel, name, patched)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One call in the journal of its task."""

    task: TaskGuard
    journal: AnswerJournal
    position: str
    model: str

    def replaying(self, model: BaseChatModel) -> BaseChatModel | None:
        """Return a copy of the model that answers with what is recorded; None: there is nothing that can be read."""
        try:
            found = self.journal.find(self.position)
            replaying = None if found is None else _replaying(model, found)
        except Exception as error:
            _log.warning("answer.unreadable", model=self.model, error=type(error).__name__)
            return None
        if replaying is not None:
            self.task.model = self.model
            _log.info("answer.replayed", model=self.model)
        return replaying

    async def keep(self, answer: Sequence[BaseMessage]) -> None:
        """Record the answer; what cannot be recorded is paid again if the node runs again."""
        try:
            call = self.journal.keep_call(self.position, [_plain(message) for message in answer])
        except Exception as error:
            _log.warning("answer.not_kept", model=self.model, reason=type(error).__name__)
            return
        if call is None:
            _log.warning("answer.not_kept", model=self.model, reason="the journal is full")
            return
        loops = self.task.guards.loops
        try:
            await loops.run_here(loops.deliver(call, partial(self._note, is_paid=_is_paid(answer))))
        except Exception as error:  # the answer is paid: the node gets it
            _log.warning("answer.not_kept", model=self.model, reason=type(error).__name__)

    def keep_sync(self, answer: Sequence[BaseMessage]) -> None:
        """Do the same for a sync caller."""
        self.task.guards.loops.run_sync(self.keep(answer))

    def _note(self, is_kept: bool | None, *, is_paid: bool) -> None:
        if is_kept:
            if is_paid:
                self.task.waits.free(self.journal.began_at(self.position))
        else:
            reason = "Redis is away" if is_kept is None else "the run has ended"
            _log.warning("answer.not_kept", model=self.model, reason=reason)


def _entry(model: BaseChatModel, prompts: Sequence[Messages], stop: Any, parameters: dict[str, Any]) -> _Entry | None:
    """Return where a call stands in the journal; None: it is not journaled."""
    task = current_task.get()
    if task is None or task.journal is None or isinstance(model, _Replaying) or len(prompts) != 1:
        return None
    given = {name: value for name, value in parameters.items() if name not in _ABOUT_THE_RUN}
    kind = type(model)
    try:
        about = model._get_invocation_params(stop=stop, **given)  # noqa: SLF001 - as LangChain's own cache asks
        # Ids are made anew by a node that runs again.
        prompt = dumps([message.model_copy(update={"id": None}) for message in prompts[0]])
    except Exception as error:  # whatever a model has in it, its call is made
        _log.warning("answer.not_kept", model=kind.__name__, reason=type(error).__name__)
        return None
    endpoints = [str(getattr(model, name, "")) for name in _ENDPOINTS]
    asked = (sorted(about.items()), sorted(given.items()), prompt)
    position = task.journal.position(digest(kind.__module__, kind.__qualname__, endpoints, *asked))
    if position is None:
        return None
    named = about.get("model") or about.get("model_name") or kind.__name__
    return _Entry(task, task.journal, position, str(named))


def _generate(own: Callable[..., LLMResult]) -> Callable[..., LLMResult]:
    def generate(self: Any, messages: list[list[BaseMessage]], stop: Any = None, *args: Any, **kwargs: Any) -> Any:
        entry = _entry(self, messages, stop, kwargs)
        replaying = entry.replaying(self) if entry else None
        if entry is None or replaying is not None:
            return own(self if replaying is None else replaying, messages, stop, *args, **kwargs)
        result = own(self, messages, stop, *args, **kwargs)
        entry.keep_sync(_messages(result))
        return result

    return generate


def _agenerate(own: Callable[..., Any]) -> Callable[..., Any]:
    async def agenerate(
        self: Any, messages: list[list[BaseMessage]], stop: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        entry = _entry(self, messages, stop, kwargs)
        replaying = entry.replaying(self) if entry else None
        if entry is None or replaying is not None:
            return await own(self if replaying is None else replaying, messages, stop, *args, **kwargs)
        result = await own(self, messages, stop, *args, **kwargs)
        await entry.keep(_messages(result))
        return result

    return agenerate


def _stream(own: Callable[..., Any]) -> Callable[..., Iterator[AIMessageChunk]]:
    def stream(self: Any, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002 - LangChain's name
        entry = _stream_entry(self, input, stop, kwargs, is_async=False)
        replaying = entry.replaying(self) if entry else None
        received: list[AIMessageChunk] = []
        with closing(own(self if replaying is None else replaying, input, config, stop=stop, **kwargs)) as chunks:
            for chunk in chunks:
                if entry and replaying is None:
                    received.append(chunk)
                yield chunk
        if entry and received:
            entry.keep_sync([message_chunk_to_message(reduce(add, received))])

    return stream


def _astream(own: Callable[..., Any]) -> Callable[..., AsyncIterator[AIMessageChunk]]:
    async def astream(self: Any, input: Any, config: Any = None, *, stop: Any = None, **kwargs: Any) -> Any:  # noqa: A002 - LangChain's name
        entry = _stream_entry(self, input, stop, kwargs, is_async=True)
        replaying = entry.replaying(self) if entry else None
        received: list[AIMessageChunk] = []
        async with aclosing(
            own(self if replaying is None else replaying, input, config, stop=stop, **kwargs)
        ) as chunks:
            async for chunk in chunks:
                if entry and replaying is None:
                    received.append(chunk)
                yield chunk
        if entry and received:
            await entry.keep([message_chunk_to_message(reduce(add, received))])

    return astream


def _stream_entry(model: Any, given: Any, stop: Any, parameters: dict[str, Any], *, is_async: bool) -> _Entry | None:
    # A model that does not stream is invoked instead, and journaled there.
    if not model._should_stream(async_api=is_async, **{**parameters, "stream": True}):  # noqa: SLF001 - LangChain asks so
        return None
    return _entry(model, [model._convert_input(given).to_messages()], stop, parameters)  # noqa: SLF001


_PATCHES: dict[str, Callable[[Any], Any]] = {
    "generate": _generate,
    "agenerate": _agenerate,
    "stream": _stream,
    "astream": _astream,
}


def _plain(message: BaseMessage) -> BaseMessage:
    """Write the parsed part of a structured answer as a dict, which LangChain parses: state need not know its type."""
    parsed = message.additional_kwargs.get("parsed")
    if not isinstance(parsed, BaseModel):
        return message
    plain = parsed.model_dump(mode="json", by_alias=True)
    return message.model_copy(update={"additional_kwargs": {**message.additional_kwargs, "parsed": plain}})


def _is_paid(answer: Sequence[BaseMessage]) -> bool:
    usage: Any = getattr(answer[0], "usage_metadata", None) if answer else None
    return not usage or usage.get("total_cost") != 0  # LangChain's mark of an answer from its own cache


def _messages(result: LLMResult) -> list[BaseMessage]:
    return [cast(ChatGeneration, generation).message for generation in result.generations[0]]


class _Replaying(BaseChatModel):
    """Answers with what is recorded; everything else is the model's own."""

    _answer: list[AIMessage] = PrivateAttr(default_factory=list)

    def _generate(self, *_args: Any, **_kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=message) for message in self._answer])

    async def _agenerate(self, *_args: Any, **_kwargs: Any) -> ChatResult:
        return self._generate()

    def _stream(self, *_args: Any, **_kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for message in self._answer:
            yield ChatGenerationChunk(message=_chunk(message))

    async def _astream(self, *_args: Any, **_kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream():
            yield chunk


def _replaying(model: BaseChatModel, answer: Any) -> BaseChatModel:
    """Copy a model so that it answers with what is recorded; the handler of unchanged models takes it for guarded.

    Raises:
        TypeError: what is recorded is no answer.
    """
    if not isinstance(answer, list) or not answer or not all(isinstance(message, AIMessage) for message in answer):
        raise TypeError("expected a list of AIMessage")
    about = {**(model.metadata or {}), GUARDED: True}
    changed = {"metadata": about, "cache": False, "rate_limiter": None, "output_version": None}
    replaying: Any = model.model_copy(update=changed)
    object.__setattr__(replaying, "__class__", _replaying_class(type(model)))
    replaying.__pydantic_private__ = {**(model.__pydantic_private__ or {}), "_answer": answer}
    return cast(BaseChatModel, replaying)


@cache
def _replaying_class(kind: type[BaseChatModel]) -> type[BaseChatModel]:
    # LangChain prefers these to `_stream` where a model has them.
    native = dict.fromkeys(("_stream_chat_model_events", "_astream_chat_model_events"))
    own = {"__module__": __name__, **{name: None for name in native if hasattr(kind, name)}}
    return type(f"Replaying{kind.__name__}", (_Replaying, kind), own)


def _chunk(message: AIMessage) -> AIMessageChunk:
    fields = message.model_dump(exclude={"type"})
    return AIMessageChunk(**fields, chunk_position="last")

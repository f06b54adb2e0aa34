"""`guarded_embeddings`: LangChain embeddings with breaker, budget and retries around each call.

LangChain has no callbacks for embedding calls, so those of an unchanged graph cannot be guarded or counted. Guarded are
the embeddings that a graph wraps, and those of the store's index (`store.index.embed`).

A call reserves one token per byte of its texts, priced as its model's input. OpenAI's embeddings report their usage;
for others the whole reservation is booked, as an estimate.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from langchain_core.embeddings import Embeddings

from langgraph_rq.shared.breaker.circuit_breaker import Outcome
from langgraph_rq.worker.calls.model_call import CallLimits, Target, call_model
from langgraph_rq.worker.calls.provider_key import follow_environment
from langgraph_rq.worker.guards.call_size import CallSize, Prompt, measure_texts
from langgraph_rq.worker.guards.guards import Guards
from langgraph_rq.worker.guards.task_guard import TaskGuard, Used, find_guards

BATCH_TOKENS = 100_000
"""The most that one call reserves where requests have no limit; OpenAI's own limit is 300,000 tokens."""

Vectors = list[list[float]]

_reported: ContextVar[list[int] | None] = ContextVar("reported", default=None)
"""Collects the input tokens that the provider reports for the current call."""


def guarded_embeddings(
    embeddings: Embeddings, *, limits: CallLimits | None = None, guards: Guards | None = None
) -> "GuardedEmbeddings":
    """Guard embeddings of any provider; texts are batched so that each call fits the limit of one request.

    Args:
        embeddings: The embeddings to call. Retries of OpenAI's SDK are switched off: the guards retry instead, and
            respect the breaker and the deadline.
        limits: Attempts, timeout, longest wait.
        guards: Needed only outside of a worker; inside, the task's guards are used.

    Returns:
        Embeddings whose calls raise `ProviderUnavailableError` when the model cannot be used, and a
        `Refusal`, which ends the task, when the budget is spent.
    """
    return GuardedEmbeddings(_metered(embeddings), limits or CallLimits(), guards)


class GuardedEmbeddings(Embeddings):
    """The return type of `guarded_embeddings`; it has the attributes of the embeddings that it wraps."""

    def __init__(self, inner: Embeddings, limits: CallLimits, guards: Guards | None) -> None:
        self.inner = inner
        self.model = str(getattr(inner, "model", None) or getattr(inner, "model_name", None) or type(inner).__name__)
        provider = type(inner).__module__.partition(".")[0].removeprefix("langchain_")
        self.breaker = f"{provider}/{self.model}"
        self._limits = limits
        self._guards = guards

    def __getattr__(self, name: str) -> Any:
        """Return what only the wrapped embeddings have, such as `dimensions`."""
        inner = self.__dict__.get("inner")  # absent while a copy is being made
        if name.startswith("__") or not hasattr(inner, name):
            message = f"neither GuardedEmbeddings nor {type(inner).__name__} has an attribute {name!r}"
            raise AttributeError(message, name=name, obj=self)
        return getattr(inner, name)

    async def aembed_documents(self, texts: list[str]) -> Vectors:
        """Embed texts."""
        guards, task = find_guards(self._guards, "guarded embeddings are")
        return await guards.loops.run_here(self._all(guards, task, texts, self.inner.aembed_documents))

    async def aembed_query(self, text: str) -> list[float]:
        """Embed the text of a question."""
        guards, task = find_guards(self._guards, "guarded embeddings are")
        step = partial(self.inner.aembed_query, text)
        return await guards.loops.run_here(self._call(guards, task, measure_texts([text]), step))

    def embed_documents(self, texts: list[str]) -> Vectors:
        """Embed texts."""
        guards, task = find_guards(self._guards, "guarded embeddings are")

        async def in_thread(batch: list[str]) -> Vectors:
            return await asyncio.to_thread(self.inner.embed_documents, batch)

        return guards.loops.run_sync(self._all(guards, task, texts, in_thread))

    def embed_query(self, text: str) -> list[float]:
        """Embed the text of a question."""
        guards, task = find_guards(self._guards, "guarded embeddings are")
        step = partial(asyncio.to_thread, self.inner.embed_query, text)
        return guards.loops.run_sync(self._call(guards, task, measure_texts([text]), step))

    async def _all(
        self, guards: Guards, task: TaskGuard, texts: Sequence[str], embed: Callable[[list[str]], Awaitable[Vectors]]
    ) -> Vectors:
        vectors: Vectors = []
        for batch in _batches(texts, guards.budget.request_tokens or BATCH_TOKENS):
            vectors += await self._call(guards, task, measure_texts(batch), partial(embed, batch))
        return vectors

    async def _call(self, guards: Guards, task: TaskGuard, prompt: Prompt, step: Callable[[], Awaitable[Any]]) -> Any:
        target = Target(self.breaker, self.model, CallSize(prompt, output_limit=0), lambda _: step())
        reported: list[int] = []
        token = _reported.set(reported)
        try:
            called = await call_model(guards, task, target, self._limits)
        finally:
            _reported.reset(token)
        used = Used(sum(reported), 0) if reported else None
        await guards.settle(task, called.admitted, Outcome.OK, used)
        return called.value


def _batches(texts: Sequence[str], most_tokens: int) -> Iterator[list[str]]:
    """Split texts into batches bounded by `most_tokens` each; a single longer text is a batch of its own."""
    empty = measure_texts(()).most_tokens
    batch: list[str] = []
    tokens = empty
    for text in texts:
        more = measure_texts([text]).text_bytes
        if batch and tokens + more > most_tokens:
            yield batch
            batch, tokens = [], empty
        batch.append(text)
        tokens += more
    if batch:
        yield batch


def _metered(embeddings: Embeddings) -> Embeddings:
    """Copy OpenAI's embeddings with the SDK's retries off and the usage of their calls recorded."""
    clients = {name: getattr(embeddings, name, None) for name in ("client", "async_client")}
    made = {name: client for name, client in clients.items() if hasattr(client, "_client")}
    if not made or not hasattr(embeddings, "model_copy"):
        return embeddings
    return embeddings.model_copy(update={name: _Metered(client) for name, client in made.items()})  # type: ignore[no-any-return]


class _Metered:
    """The `embeddings` resource of an OpenAI client, sync or async."""

    def __init__(self, resource: Any) -> None:
        client = resource._client  # noqa: SLF001 - no public attribute
        self._resource = client.with_options(max_retries=0, **follow_environment(client)).embeddings

    def create(self, **request: Any) -> Any:
        """Make the call and record its usage."""
        reply = self._resource.create(**request)
        return self._recorded_async(reply) if asyncio.iscoroutine(reply) else _recorded(reply)

    async def _recorded_async(self, reply: Awaitable[Any]) -> Any:
        return _recorded(await reply)


def _recorded(reply: Any) -> Any:
    reported, usage = _reported.get(), getattr(reply, "usage", None)
    if reported is not None and usage:
        reported.append(usage.prompt_tokens)
    return reply

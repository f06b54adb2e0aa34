"""`guarded_embeddings`: LangChain embeddings with breaker, budget and retries around each call.

LangChain tells no handler of embedding calls, so those of an unchanged graph are seen by nobody: neither counted nor
stopped. Guarded are the ones that a graph wraps, and those of the store's index (`store.index.embed`).

A call is held at a token per byte of its texts and priced as its model's input. OpenAI's embeddings say what they used;
for others all that was held is booked, as an estimate.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from langchain_core.embeddings import Embeddings

from langgraph_rq.shared.breaker.circuit_breaker import Outcome
from langgraph_rq.worker.guards.bounds import text_bound
from langgraph_rq.worker.guards.guards import Guards, TaskGuard, Used, current_task
from langgraph_rq.worker.guards.model_call import CallLimits, Target, call_model

BATCH_TOKENS = 100_000
"""The most that one call may hold where requests have no limit; OpenAI's own is 300,000 tokens."""

Vectors = list[list[float]]

_told: ContextVar[list[int] | None] = ContextVar("told", default=None)
"""Where the call that is being made puts the tokens that its provider tells."""


def guarded_embeddings(
    embeddings: Embeddings, *, limits: CallLimits | None = None, guards: Guards | None = None
) -> "GuardedEmbeddings":
    """Guard embeddings of any kind; many texts are split so that each call fits into what one request may use.

    Args:
        embeddings: Theirs is the work; own retries of OpenAI's are switched off, ours know breaker and deadline.
        limits: Attempts, timeout, longest wait.
        guards: Only outside of a worker, where there is no task to find them by.

    Returns:
        Embeddings whose calls raise `ProviderUnavailableError` when the model cannot be used, and a
        `Refusal`, which ends the run, when the budget is spent.
    """
    return GuardedEmbeddings(_metered(embeddings), limits or CallLimits(), guards)


class GuardedEmbeddings(Embeddings):
    """Made by `guarded_embeddings`."""

    def __init__(self, inner: Embeddings, limits: CallLimits, guards: Guards | None) -> None:
        self.inner = inner
        self.model = str(getattr(inner, "model", None) or getattr(inner, "model_name", None) or type(inner).__name__)
        provider = type(inner).__module__.partition(".")[0].removeprefix("langchain_")
        self.breaker = f"{provider}/{self.model}"
        self._limits = limits
        self._guards = guards

    async def aembed_documents(self, texts: list[str]) -> Vectors:
        """Embed texts."""
        guards, task = self._who()
        return await guards.loops.run_here(self._all(guards, task, texts, self.inner.aembed_documents))

    async def aembed_query(self, text: str) -> list[float]:
        """Embed the text of a question."""
        guards, task = self._who()
        step = partial(self.inner.aembed_query, text)
        return await guards.loops.run_here(self._call(guards, task, text_bound([text]), step))

    def embed_documents(self, texts: list[str]) -> Vectors:
        """Embed texts."""
        guards, task = self._who()

        async def in_thread(batch: list[str]) -> Vectors:
            return await asyncio.to_thread(self.inner.embed_documents, batch)

        return guards.loops.run_sync(self._all(guards, task, texts, in_thread))

    def embed_query(self, text: str) -> list[float]:
        """Embed the text of a question."""
        guards, task = self._who()
        step = partial(asyncio.to_thread, self.inner.embed_query, text)
        return guards.loops.run_sync(self._call(guards, task, text_bound([text]), step))

    async def _all(
        self, guards: Guards, task: TaskGuard, texts: Sequence[str], embed: Callable[[list[str]], Awaitable[Vectors]]
    ) -> Vectors:
        vectors: Vectors = []
        for batch in _batches(texts, guards.budget.request_tokens or BATCH_TOKENS):
            vectors += await self._call(guards, task, text_bound(batch), partial(embed, batch))
        return vectors

    async def _call(self, guards: Guards, task: TaskGuard, bound: int, step: Callable[[], Awaitable[Any]]) -> Any:
        told: list[int] = []
        token = _told.set(told)
        try:
            called = await call_model(guards, task, Target(self.breaker, self.model, (bound, 0), step), self._limits)
        finally:
            _told.reset(token)
        used = Used(sum(told), 0) if told else None
        await guards.settle(task, called.admitted, Outcome.OK, used)
        return called.value

    def _who(self) -> tuple[Guards, TaskGuard]:
        task = current_task.get()
        guards = self._guards or (task.guards if task else None)
        if guards is None:
            raise RuntimeError("guarded embeddings are called outside of a worker's task: give guards=Guards(...)")
        return guards, task or TaskGuard(guards)


def _batches(texts: Sequence[str], most_tokens: int) -> Iterator[list[str]]:
    """Split texts so that each part's bound is at most `most_tokens`; a single text is never split."""
    batch: list[str] = []
    bound = text_bound(())
    for text in texts:
        more = text_bound([text]) - text_bound(())
        if batch and bound + more > most_tokens:
            yield batch
            batch, bound = [], text_bound(())
        batch.append(text)
        bound += more
    if batch:
        yield batch


def _metered(embeddings: Embeddings) -> Embeddings:
    """Copy OpenAI's embeddings with the SDK's retries off, and listen to what their calls used."""
    clients = {name: getattr(embeddings, name, None) for name in ("client", "async_client")}
    made = {name: client for name, client in clients.items() if hasattr(client, "_client")}
    if not made or not hasattr(embeddings, "model_copy"):
        return embeddings
    return embeddings.model_copy(update={name: _Metered(client) for name, client in made.items()})  # type: ignore[no-any-return]


class _Metered:
    """The `embeddings` resource of an OpenAI client, sync or async."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource._client.with_options(max_retries=0).embeddings  # noqa: SLF001 - its only way back

    def create(self, **request: Any) -> Any:
        """Make the call, and note what it used."""
        reply = self._resource.create(**request)
        return self._noted_later(reply) if asyncio.iscoroutine(reply) else _noted(reply)

    async def _noted_later(self, reply: Awaitable[Any]) -> Any:
        return _noted(await reply)


def _noted(reply: Any) -> Any:
    told, usage = _told.get(), getattr(reply, "usage", None)
    if told is not None and usage:
        told.append(usage.prompt_tokens)
    return reply

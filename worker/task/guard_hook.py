"""Guard graphs that know nothing of this project: a LangChain handler that admits and settles every model call.

LangChain's configure hook puts the handler into every run of the task's context, also where a node gives callbacks of
its own. Before a call it reserves what the call is likely to use; after it, it settles what the call used. Out of its
sight are the SDK's own retries, and a model without an output limit may write more than was reserved.

The handler passes starts and ends of nodes and tools on to `NodeWatch`: a second handler would cost a hundredth of each
task's CPU. It is sync and inline there, so that what `NodeWatch` makes current is current in the node.

The guards are async. For a sync call LangChain runs an async handler in another event loop and swallows any Exception,
so a refusal that must end a sync call is a BaseException.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.tracers.context import register_configure_hook
from langgraph.errors import GraphInterrupt
from langgraph.graph import START

from langgraph_rq.shared.breaker.circuit_breaker import Outcome
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.calls.announced_models import note_model
from langgraph_rq.worker.calls.guarded_model import GUARDED
from langgraph_rq.worker.calls.model_call import CallLimits, describe, settle_failure
from langgraph_rq.worker.calls.model_usage import answer_bytes, read_usage, written_bytes
from langgraph_rq.worker.calls.rate_limits import call_at_rate
from langgraph_rq.worker.guards.call_size import CallSize, Prompt, measure_messages, measure_texts, output_limit
from langgraph_rq.worker.guards.event_loops import running_loop, stops_a_loop
from langgraph_rq.worker.guards.refusals import GuardUnavailable, ProviderRefused, ProviderUnavailableError, TaskGone
from langgraph_rq.worker.guards.task_guard import TaskGuard
from langgraph_rq.worker.task.attempt import Attempt
from langgraph_rq.worker.task.node_watch import STEP, NodeWatch

_DEFAULT = CallLimits()
_WITH_FALLBACKS = "RunnableWithFallbacks"
"""LangChain's name for a run of `with_fallbacks`."""
_log = get_logger(__name__)

# LangChain's interface takes a context variable that holds the handler itself, so `current_task` cannot serve.
_handler: ContextVar["GuardHandler | None"] = ContextVar("guard_handler", default=None)
register_configure_hook(_handler, inheritable=True)


def install_handler(attempt: Attempt) -> None:
    """Let LangChain call the handler in every run that begins in this context."""
    _handler.set(GuardHandler(attempt, NodeWatch.of(attempt)))


def has_begun() -> bool:
    """Whether a node of this context's graph has begun."""
    handler = _handler.get()
    return handler is not None and handler.has_begun


def has_stopped() -> bool:
    """Whether a node of this context's graph was left because a graph inside of it stopped, or asked something."""
    handler = _handler.get()
    return handler is not None and handler.has_stopped


class GuardHandler(BaseCallbackHandler):
    """Admits and settles the model calls of one attempt, and passes what happens to its nodes on to `nodes`."""

    raise_error = True
    run_inline = True
    """In the node's own context, so that what is bound there is in the node's log lines. LangChain calls inline
    handlers first: a call that is refused here never reaches those of the graph's own handlers that are not inline."""
    ignore_chain = False
    ignore_agent = False  # with the tools, by LangChain's order of things
    ignore_retriever = True
    ignore_custom_event = True

    def __init__(self, task: TaskGuard, nodes: NodeWatch | None = None) -> None:
        self._task = task
        self._nodes = nodes
        self._guards = task.guards
        self._home = asyncio.get_running_loop()
        self.has_begun = False
        """Whether a node has begun. LangGraph's own, which writes the input, is none."""
        self.has_stopped = False
        """Whether a node was left by LangGraph's own exception."""
        self._fallbacks: dict[UUID, UUID] = {}
        """Runs of `with_fallbacks` -> the run around each."""

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,  # noqa: ARG002 - LangChain's signature
        inputs: Any,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the start of a graph, a node or another runnable; none starts in a run that was abandoned."""
        if self._task.is_over:
            raise TaskGone("the run has ended")
        name = str(kwargs.get("name"))
        if not self.has_begun and name != START:
            self.has_begun = any(tag.startswith(STEP) for tag in tags or ())
        self._note_fallbacks(run_id, parent_run_id, kwargs.get("name"))
        if self._nodes:
            _record(self._nodes.began, run_id, parent_run_id, tags, name)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        """Pass on its end."""
        self._forget_fallbacks(run_id)
        if self._nodes:
            _record(self._nodes.ended, outputs, run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """Pass on its failure."""
        self._forget_fallbacks(run_id)
        self.has_stopped = self.has_stopped or isinstance(error, GraphInterrupt)
        if self._nodes:
            _record(self._nodes.failed, error, run_id)

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,  # noqa: ARG002 - LangChain's signature
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Pass on the start of a tool."""
        if self._nodes:
            name = (serialized or {}).get("name") or kwargs.get("name")
            _record(self._nodes.tool_began, run_id, parent_run_id, str(name))

    def on_tool_end(self, output: Any, *, run_id: UUID, **_kwargs: Any) -> None:
        """Pass on its end."""
        if self._nodes:
            _record(self._nodes.ended, output, run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """Pass on its failure."""
        if self._nodes:
            _record(self._nodes.failed, error, run_id)

    def _note_fallbacks(self, run_id: UUID, parent_run_id: UUID | None, name: object) -> None:
        # LangChain runs the models of a `with_fallbacks` as its siblings, not below it.
        runs = self._task.waits.runs_with_fallbacks
        if name == _WITH_FALLBACKS and parent_run_id:
            self._fallbacks[run_id] = parent_run_id
            runs.add(parent_run_id)
        elif runs and parent_run_id in runs:
            runs.add(run_id)

    def _forget_fallbacks(self, run_id: UUID) -> None:
        runs = self._task.waits.runs_with_fallbacks
        if runs:
            runs.discard(self._fallbacks.pop(run_id, run_id))

    @property
    def on_chat_model_start(self) -> Callable[..., Coroutine[Any, Any, None]]:
        """Look up what LangChain calls in its caller's thread, and awaits elsewhere if that caller is sync."""
        return partial(self._chat_model_starts, running_loop())

    @property
    def on_llm_start(self) -> Callable[..., Coroutine[Any, Any, None]]:
        """Do the same for a model without a chat interface."""
        return partial(self._llm_starts, running_loop())

    async def _chat_model_starts(
        self,
        caller: asyncio.AbstractEventLoop | None,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Admit the call, or raise."""
        if (metadata or {}).get(GUARDED):
            return
        with _not_swallowed():
            parameters = kwargs.get("invocation_params") or {}
            prompt = measure_messages(chain.from_iterable(messages), parameters)
            may_keep = kwargs.get("parent_run_id") not in self._task.waits.runs_with_fallbacks
            await self._admit(caller, run_id, serialized, metadata or {}, parameters, prompt, may_keep=may_keep)

    async def _llm_starts(
        self,
        caller: asyncio.AbstractEventLoop | None,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Admit the call of a model without a chat interface, or raise."""
        with _not_swallowed():
            parameters = kwargs.get("invocation_params") or {}
            may_keep = kwargs.get("parent_run_id") not in self._task.waits.runs_with_fallbacks
            prompt = measure_texts(prompts)
            await self._admit(caller, run_id, serialized, metadata or {}, parameters, prompt, may_keep=may_keep)

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],  # noqa: ARG002 - LangChain's signature
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        **_kwargs: Any,
    ) -> None:
        """Report that a stream has begun, and count what it has sent: it may end without a report of its usage."""
        admitted = self._task.open.get(run_id)
        if admitted and chunk:
            self._guards.report_first_chunk(admitted)
            admitted.received_bytes += written_bytes(chunk)

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_kwargs: Any) -> None:
        """Settle what the call used."""
        admitted = self._task.open.pop(run_id, None)
        if admitted:
            self._task.model = admitted.model
            used = read_usage(response)
            if used is None:
                admitted.received_bytes = answer_bytes(response)
            settling = self._guards.settle(self._task, admitted, Outcome.OK, used)
            await self._guards.loops.run_here(settling)

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **_kwargs: Any) -> None:
        """Settle what a failed call may have used, and report the failure to the breaker."""
        admitted = self._task.open.pop(run_id, None)
        self._task.call_errors.append((error, admitted.breaker if admitted else ""))
        if admitted:
            await self._guards.loops.run_here(settle_failure(self._guards, self._task, admitted, error))

    async def _admit(
        self,
        caller: asyncio.AbstractEventLoop | None,
        run_id: UUID,
        serialized: Mapping[str, Any] | None,
        metadata: Mapping[str, Any],
        parameters: Mapping[str, Any],
        prompt: Prompt,
        *,
        may_keep: bool,
    ) -> None:
        model = _model_name(serialized, metadata, parameters)
        breaker = f"{metadata.get('ls_provider') or 'model'}/{model}"
        note_model(breaker, fallbacks=() if may_keep else [_WITH_FALLBACKS])
        timeout_s = parameters.get("timeout")
        if caller not in {None, asyncio.get_running_loop()}:
            stops_a_loop.set(True)
        try:
            admit = partial(
                self._guards.admit,
                self._task,
                breaker,
                model,
                CallSize(prompt, _output_limit(parameters, metadata)),
                timeout_s if isinstance(timeout_s, int | float) else _DEFAULT.timeout_s,
            )
            admitted = await self._guards.loops.run_here(call_at_rate(self._task, admit, may_keep=may_keep))
        except ProviderUnavailableError as error:
            if asyncio.get_running_loop() is self._home:
                raise
            raise ProviderRefused(str(error), error.retry_after_s, error.wait) from None
        self._task.open[run_id] = admitted
        if self._task.is_over:  # it ended during the round trip: nothing else would settle this call
            await self._guards.loops.run_here(self._guards.close_task(self._task))
            raise TaskGone("the run has ended")


def _record(record: Callable[..., None], *reported: Any) -> None:
    """Let no fault in the records of a node or a tool end its task: `raise_error` is for refusals."""
    try:
        record(*reported)
    except Exception:
        _log.exception("node.not_recorded")


@contextmanager
def _not_swallowed() -> Iterator[None]:
    """Let no fault start a call: LangChain swallows an Exception of a sync call's handler, and makes the call."""
    try:
        yield
    except ProviderUnavailableError:
        raise
    except Exception as error:
        _log.exception("model_call.not_admitted")
        raise GuardUnavailable(f"it could not be decided whether a call may start: {describe(error)}") from error


def _model_name(
    serialized: Mapping[str, Any] | None, metadata: Mapping[str, Any], parameters: Mapping[str, Any]
) -> str:
    named = metadata.get("ls_model_name") or parameters.get("model") or parameters.get("model_name")
    return str(named or (serialized or {}).get("name") or "unknown")


def _output_limit(parameters: Mapping[str, Any], metadata: Mapping[str, Any]) -> int | None:
    limit = output_limit(parameters) or metadata.get("ls_max_tokens")
    return limit * (parameters.get("n") or 1) if isinstance(limit, int) else None

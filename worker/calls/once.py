"""`guarded(name, once=True)`: a function that is called once, also if its node runs again.

Before it is called, one script reserves the call by its node, its arguments and the number of equal calls before it in
that node. Its result is recorded before the node gets it. When the node runs again, after a crash, a wait, a question
or a failure, or in a task that continues a failed one, the function is not called: its result is returned.

A call without a recorded result may have been made or not: its process died, or it raised. Then `OutcomeUnknown` is
raised, unless the function has a parameter `idempotency_key`: it gets the key of the call, and is called again with the
same one. Callers do not see that parameter, nor does a model that is given the function as a tool.

A node that catches an error and calls with equal arguments tries the same call again, under the same key.

Known as not made, and called again, is a call that the breaker refused, that asked a question (`interrupt`), that did
not reach its service (httpx's ConnectError and the like), or that the service refused (HTTP 4xx without 408).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import InjectedToolArg
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

from langgraph_rq.shared.connections.scripts import Call
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.calls.provider_errors import read_failure, status_of
from langgraph_rq.worker.guards.admission import Became
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.refusals import OutcomeUnknown, ProviderUnavailableError, ToolError
from langgraph_rq.worker.guards.task_guard import TaskGuard
from langgraph_rq.worker.records.ledger import MOST_CALLS, Ledger

KEY = "idempotency_key"
_REQUEST_TIMEOUT = 408

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OnceCall:
    """One call that is made once."""

    name: str
    ledger: Ledger
    key: str
    token: str
    takes_key: bool

    def slots(self) -> Any:
        """Return its slots of the script that admits it."""
        return self.ledger.slots(self.key, self.token, takes_key=self.takes_key)

    def recorded(self, became: Became) -> Any:
        """Return the result of the call, which does not start.

        Raises:
            OutcomeUnknown: there is none.
            RuntimeError: the ledger is full.
        """
        if became.what == "full":
            raise RuntimeError(
                f"expected at most {MOST_CALLS:,} calls with once=True between two checkpoints, got: more"
            )
        if became.what == "unknown":
            _log.warning("call.unknown", service=self.name, key=self.key)
            raise OutcomeUnknown(
                f"{self.name}: an earlier call was begun and its outcome was not recorded; "
                f"find out whether it was made (key {self.key})",
                self.key,
            )
        try:
            result = self.ledger.read(self.key, became.result)
        except Exception as error:
            _log.warning("call.unreadable", service=self.name, key=self.key, error=type(error).__name__)
            raise OutcomeUnknown(
                f"{self.name}: the call was made, but its result cannot be read again (key {self.key})", self.key
            ) from error
        _log.info("call.replayed", service=self.name)
        return result

    async def end(self, loops: EventLoops, result: Any) -> None:
        """Record the result; while Redis is away, in the background."""
        try:
            text = self.ledger.write(self.key, result)
        except Exception as error:
            _log.warning("call.not_kept", service=self.name, key=self.key, reason=type(error).__name__)
            text = b""
        await self._record(loops, self.ledger.end_call(self.key, self.token, text))

    async def give_back(self, loops: EventLoops) -> None:
        """Record that the call was not made."""
        await self._record(loops, self.ledger.end_call(self.key, self.token, None))

    async def _record(self, loops: EventLoops, call: Call[bool]) -> None:
        try:
            await loops.deliver(call, self._note)
        except Exception as error:  # what was done is done: the node goes on
            _log.warning("call.not_recorded", service=self.name, key=self.key, reason=type(error).__name__)

    def _note(self, is_recorded: bool | None) -> None:
        if not is_recorded:
            reason = "Redis is away" if is_recorded is None else "another caller has it"
            _log.warning("call.not_recorded", service=self.name, key=self.key, reason=reason)


class OnceFunction:
    """A function that is called once.

    Args:
        name: Of its service.
        function: With or without a parameter `idempotency_key`.

    Raises:
        TypeError: that parameter cannot be given by its name.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        signature = inspect.signature(function)
        parameters = signature.parameters
        self.takes_key = KEY in parameters
        if self.takes_key and parameters[KEY].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"expected {KEY} to be a keyword parameter, got: a positional one")
        shown = [parameter for name, parameter in parameters.items() if name != KEY]
        self.signature = signature.replace(parameters=shown)
        self._injected = _injected(function)

    def dress(self, caller: Callable[..., Any]) -> None:
        """Hide the key's parameter in what callers see of the function."""
        caller.__signature__ = self.signature  # type: ignore[attr-defined]
        caller.__annotations__ = {name: kind for name, kind in caller.__annotations__.items() if name != KEY}

    def begin(self, task: TaskGuard, args: Sequence[Any], kwargs: Mapping[str, Any]) -> OnceCall:
        """Find the place of a call.

        Raises:
            RuntimeError: there are no checkpoints, or no node.
            TypeError: the arguments do not fit, or are no plain data.
        """
        if task.ledger is None:
            raise RuntimeError(
                f"expected checkpoints for {self.name!r}, because it is made once, got: none; "
                "set LGRQ_CHECKPOINTS=true for the workers"
            )
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {name: value for name, value in bound.arguments.items() if name not in self._injected}
        key = task.ledger.key(self.name, given)
        return OnceCall(self.name, task.ledger, key, task.next_rid(), self.takes_key)

    def more(self, call: OnceCall | None) -> dict[str, str]:
        """Return the further argument of a call; None: it is made outside of a worker."""
        return {KEY: call.key if call else str(uuid4())} if self.takes_key else {}


def is_not_made(error: BaseException) -> bool:
    """Whether a call that raised this is known to have changed nothing."""
    if isinstance(error, GraphBubbleUp):
        return True
    if isinstance(error, ToolError | ProviderUnavailableError):  # of another guarded call, inside this one
        return False
    status = status_of(error)
    if status:
        return 400 <= status < 500 and status != _REQUEST_TIMEOUT
    failure = read_failure(error)
    return failure.is_provider and not failure.may_be_billed


def _injected(function: Callable[..., Any]) -> set[str]:
    """Return the parameters that LangChain and LangGraph fill in: they do not tell one call from another."""
    from langgraph.prebuilt import ToolRuntime  # noqa: PLC0415 - a tenth of a second, for those who use it

    kinds = (InjectedToolArg, ToolRuntime, Runtime, BaseStore)

    def is_injected(hint: Any) -> bool:
        if get_origin(hint) is Annotated:
            return any(is_injected(part) for part in get_args(hint))
        if isinstance(hint, kinds) or hint is RunnableConfig:
            return True
        kind = get_origin(hint) or hint
        if isinstance(kind, type):
            return issubclass(kind, kinds)
        return any(is_injected(part) for part in get_args(hint))

    return {name for name, hint in get_type_hints(function, include_extras=True).items() if is_injected(hint)}

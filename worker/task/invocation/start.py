"""How a task's run begins: with which config and context, from which checkpoint, and with what input."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph import START
from langgraph.types import Command, Send, StateSnapshot
from pydantic import BaseModel, ValidationError

from langgraph_rq.shared.errors import ErrorType, Violation
from langgraph_rq.shared.run_fields import LANGGRAPHS, GraphCommand, RunConfig
from langgraph_rq.shared.strict_json import kind
from langgraph_rq.shared.tasks import Resume, State, Task, task_key
from langgraph_rq.worker.graphs.empty_context import empty_context
from langgraph_rq.worker.graphs.factories import Run
from langgraph_rq.worker.graphs.graphs import AnyGraph
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.task.invocation.breakpoints import has_breakpoints, output_of, stopped_before
from langgraph_rq.worker.task.invocation.interrupts import (
    COMMAND,
    begun_answers,
    is_answering,
    is_asked_anew,
    is_by_id,
    start_plain,
    start_resume,
)
from langgraph_rq.worker.task.invocation.invalid_input import explain_values
from langgraph_rq.worker.task.invocation.threads import continue_thread
from langgraph_rq.worker.task.redacted import Redaction
from langgraph_rq.worker.task.result import Result

_NO_CHECKPOINTS = (
    "interrupt(), breakpoints and going on with a thread need checkpoints: set LGRQ_CHECKPOINTS=true for the workers"
)


_GONE_ON = "the thread has gone on since task {} ended: it cannot be continued any more"
_SENDS = "__pregel_tasks"
"""Its channel of what is sent to nodes."""
_SERVERS = frozenset({"run_id", "graph_id", "assistant_id"})
"""Keys that a gateway adds to `configurable`, as LangGraph Server does, and that no context has."""
_LOOKED_AT = 200
"""Checkpoints among which those of a task are looked for whose thread has another newest one."""


class InvalidFieldError(ValueError):
    """A field of the task does not fit its graph or its thread; the message names it."""


@dataclass(frozen=True, slots=True)
class Start:
    """What LangGraph's `astream` is called with."""

    input: Any
    """The task's input, a Command, or None to continue from the checkpoint."""
    config: RunnableConfig
    options: dict[str, Any]
    """Context, breakpoints and durability, as keywords."""


def no_checkpoints() -> Result:
    """Make the end of a task that asks, stops or goes on where no checkpoint is kept: it would ask for ever."""
    return Result(State.ERROR, error=(ErrorType.GRAPH_ERROR, _NO_CHECKPOINTS))


def thread_config(task: Task) -> RunnableConfig:
    """Return the config that names a task's thread, and the task as what runs on it."""
    return {"configurable": {"thread_id": task.thread_key, "task_id": task.key, "user_id": task.user_id}}


def run_config(task: Task, callbacks: Sequence[BaseCallbackHandler]) -> RunnableConfig:
    """Return LangGraph's config of a task's run. What the worker sets itself wins over what the task asks for."""
    asked = task.config or RunConfig()
    mirrored = {name: value for name, value in (task.context or {}).items() if not name.startswith(LANGGRAPHS)}
    given = asked.configurable or mirrored
    config: RunnableConfig = {
        "configurable": {**given, **thread_config(task)["configurable"]},
        "metadata": {**asked.metadata, **task.metadata, "task_id": task.key},
        "run_name": asked.run_name or task.graph,
        "callbacks": list(callbacks) or None,
    }
    if run_id := _uuid(given.get("run_id")):
        config["run_id"] = run_id
    if asked.tags:
        config["tags"] = list(asked.tags)
    if asked.recursion_limit:
        config["recursion_limit"] = asked.recursion_limit
    return config


def _uuid(text: Any) -> UUID | None:
    """Read the id of a run of LangGraph's API, under which LangChain's callbacks know it; None: there is none."""
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def run_of(task: Task) -> Run:
    """Return what a graph factory may look at of a task's run."""
    config = run_config(task, ())
    return Run(config, context=task.context, user_id=task.user_id)


async def choose_start(
    task: Task,
    graph: AnyGraph,
    config: RunnableConfig,
    checkpointer: Checkpointer | None,
    redaction: Redaction | None,
    last: CheckpointTuple | None,
    *,
    has_begun: bool = False,
) -> Start | Result:
    """Choose what the graph is called with. A result means that there is nothing to run.

    The newest checkpoint of a thread, `last`, may be an older task's: continuing from that would return the older
    task's state. `has_begun`: an earlier attempt of the task may have been cut off.

    Raises:
        InvalidFieldError: a field of the task does not fit.
    """
    options = _options(task, graph, has_checkpoints=checkpointer is not None)
    may_stop = has_breakpoints(graph, task)
    if checkpointer is None and (task.goes_on or may_stop):
        return no_checkpoints()
    if checkpointer and last and last.metadata.get("task_id") == task.key:
        stopped = await stopped_before(graph, task, config, checkpointer) if may_stop else None
        return stopped or Start(None, config, options)
    if checkpointer and task.continues and last:
        owners = {task_key(id_, task.tenant) for id_ in task.continues.tasks}
        if last.metadata.get("task_id") in owners:
            return Start(None, config, options)
        is_pending = task.command is not None and (_is_saved(task.command, last) or is_answering(last, owners))
        if (task.input is None and not is_pending) or await _has_written(checkpointer, config, owners):
            return Result(State.ERROR, error=(ErrorType.REJECTED, _GONE_ON.format(task.continues.task_id)))
    if checkpointer and task.checkpoint_id:
        config = {**config, "configurable": {**config["configurable"], "checkpoint_id": task.checkpoint_id}}
        last = await checkpointer.aget_tuple(config)
        if last is None:
            violation = Violation("checkpoint_id", "the id of a checkpoint of the thread", kind(task.checkpoint_id))
            raise InvalidFieldError(str(violation))
    if (has_begun or task.continues) and task.command and last and _is_saved(task.command, last):
        task = task.model_copy(update={"command": GraphCommand.model_construct(resume=task.command.resume)})
    start = await _input(task, graph, config, checkpointer, redaction, last)
    return start if isinstance(start, Result) else Start(start, config, options)


def _is_saved(command: GraphCommand, last: CheckpointTuple) -> bool:
    """Whether LangGraph has saved what a command writes beside the checkpoint that it was given at.

    It adds what it finds there to what the same command writes again. Nodes run after that only.
    """
    update = command.update.items() if isinstance(command.update, dict) else command.update or ()
    goto = [(f"branch:to:{one}", START) if isinstance(one, str) else (_SENDS, one) for one in _sends(command)]
    saved = [(channel, value) for writer, channel, value in last.pending_writes or () if writer == COMMAND]
    wanted = [*update, *goto]
    return bool(wanted) and all(any(_is_same(given, found) for found in saved) for given in wanted)


def _is_same(given: tuple[str, Any], saved: tuple[str, Any]) -> bool:
    """Compare writes. LangGraph makes messages of what is given to delta channels."""
    (channel, value), (other_channel, other) = given, saved
    is_message = isinstance(other[0] if isinstance(other, list) and other else other, BaseMessage)
    return channel == other_channel and (is_message or value == other)


async def _has_written(checkpointer: Checkpointer, config: RunnableConfig, owners: Container[str]) -> bool:
    """Whether one of the tasks has written one of the newest checkpoints of the thread."""
    async for found in checkpointer.alist(config, limit=_LOOKED_AT):
        if found.metadata.get("task_id") in owners:
            return True
    return False


async def _input(
    task: Task,
    graph: AnyGraph,
    config: RunnableConfig,
    checkpointer: Checkpointer | None,
    redaction: Redaction | None,
    last: CheckpointTuple | None,
) -> "Any | Command[str] | Result | None":
    command, resume = task.command, task.resume
    if checkpointer is None or not (command or resume or task.input is None):
        return continue_thread(last.checkpoint["channel_values"], task.input) if last else task.input
    if last is None and resume is None and not (command and command.resume is None):
        field = "command.resume" if command else "input"
        raise InvalidFieldError(str(Violation(field, "a thread with a checkpoint to continue from", "none")))
    if command and command.resume is None:
        return langgraph_command(command, None)
    if command is None and resume is None:
        return None
    state = await graph.aget_state(config, subgraphs=True)
    if command:
        answers = _answers(command.resume, state, begun_answers(last, task))
        if answers is None:
            return langgraph_command(command, await start_plain(checkpointer, state, last, task, command.resume))
        resume = Resume.model_construct(answers=answers)
    assert resume
    chosen = await start_resume(checkpointer, state, last, task, resume, redaction)
    if isinstance(chosen, Result):
        if chosen.state is State.INTERRUPTED and isinstance(values := output_of(graph, state), dict):
            chosen.output = {**values, **chosen.output}
        return chosen
    return langgraph_command(command, chosen.resume if chosen else None) if command else chosen


def _answers(given: Any, state: StateSnapshot, begun: Sequence[str] | None) -> dict[str, Any] | None:
    """Name the interrupt that a plain answer is for.

    Args:
        given: Of the command.
        state: With the open interrupts.
        begun: What an earlier attempt has taken the answer for; None: there was none.

    Returns:
        None: no interrupt is pending, or it will be asked anew; LangGraph gives the answer to the next one.
    """
    if is_by_id(given):
        return dict(given)
    pending, is_anew = [one.id for one in state.interrupts], is_asked_anew(state)
    if begun is not None and (begun or pending) and not is_anew:
        return dict.fromkeys(begun, given)
    if len(pending) > 1:
        expected = f"an object of interrupt id -> answer, to {', '.join(sorted(pending))}"
        raise InvalidFieldError(str(Violation("command.resume", expected, kind(given))))
    return {pending[0]: given} if pending and not is_anew else None


def langgraph_command(command: GraphCommand, resume: Any) -> "Command[Any] | None":
    """Make LangGraph's command; None: nothing is left to be said."""
    if resume is None and command.update is None and not command.goto:
        return None
    return Command(
        resume=resume,
        update=list(command.update) if isinstance(command.update, tuple) else command.update,
        goto=_sends(command),
    )


def _sends(command: GraphCommand) -> list[str | Send]:
    goto = command.goto if isinstance(command.goto, tuple) else (command.goto,) if command.goto else ()
    return [one if isinstance(one, str) else Send(one.node, one.input) for one in goto]


def _options(task: Task, graph: AnyGraph, *, has_checkpoints: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"context": _context(task, graph)}
    for name in ("interrupt_before", "interrupt_after"):
        nodes = getattr(task, name)
        if nodes is None:
            continue
        unknown = [node for node in nodes if node not in graph.nodes] if nodes != "*" else []
        if unknown:
            known = ", ".join(node for node in graph.nodes if node[:2] != "__")
            raise InvalidFieldError(str(Violation(name, f"nodes of the graph ({known})", ", ".join(unknown))))
        options[name] = nodes if nodes == "*" else list(nodes)
    if has_checkpoints:
        options["durability"] = task.durability.value if task.durability else "sync"
    return options


def _context(task: Task, graph: AnyGraph) -> Any:
    """Make the run's context, of `config.configurable` where the task has none, as LangGraph Server does.

    None where neither is given and the graph declares none.
    """
    given, schema = task.context, graph.context_schema
    if given is None and task.config and task.config.configurable:
        mirrored = {name: value for name, value in task.config.configurable.items() if name not in _SERVERS}
        mirrored |= {"user_id": task.user_id} if task.user_id else {}
        given = _declared(mirrored, graph) if schema else mirrored or None
    if schema is None:
        return given
    if given is None:
        return empty_context(graph)
    if not (is_dataclass(schema) or issubclass(schema, BaseModel)):
        return given
    try:
        return schema(**given)
    except ValidationError as error:
        raise InvalidFieldError(explain_values(error, "context")) from None
    except Exception as error:
        raise InvalidFieldError(f"context: {type(error).__name__}: {error}") from None


def _declared(configurable: Mapping[str, Any], graph: AnyGraph) -> dict[str, Any]:
    names = (graph.get_context_jsonschema() or {}).get("properties", {})
    return {name: value for name, value in configurable.items() if name in names}

"""What a run is asked to do: LangGraph's fields, and the task that they make."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.assistants import assistant_id, find
from langgraph_rq.producer.gateway.langgraph_api.ids import thread_of_its_own
from langgraph_rq.producer.gateway.langgraph_api.runs.configurable import read_configurable, read_context
from langgraph_rq.producer.gateway.langgraph_api.threads.bodies import CheckpointBody
from langgraph_rq.producer.gateway.problems import ProblemError, invalid
from langgraph_rq.producer.gateway.tasks.bodies import Body
from langgraph_rq.shared.errors import Violation
from langgraph_rq.shared.queue.verbs import Multitask
from langgraph_rq.shared.strict_json import kind

Mode = Literal["values", "updates", "messages", "messages-tuple", "custom", "events", "debug", "tasks", "checkpoints"]
Modes = Annotated[list[Mode], BeforeValidator(lambda modes: [modes] if isinstance(modes, str) else modes)]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_LANGGRAPHS = "__pregel_"
"""How keys of `configurable` begin that LangGraph sets for a node."""

_NOT_SERVED = {
    "webhook": "no webhook: wait for the run, or join it",
    "langsmith_tracer": "nothing: LGRQ's own traces go to OpenTelemetry",
    "strict_resume": "nothing: an answer to nothing is refused",
}


class RunBody(Body):
    """A run."""

    assistant_id: str = Field(description="An assistant's id, or a graph's name.", max_length=256)
    input: Any = Field(None, description="Null goes on from the thread's state.")
    command: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None
    stream_mode: Modes | None = None
    stream_subgraphs: bool = False
    stream_resumable: bool | None = Field(None, description="Every run is: this changes nothing.")
    interrupt_before: Literal["*"] | list[str] | None = None
    interrupt_after: Literal["*"] | list[str] | None = None
    multitask_strategy: Multitask = Multitask.ENQUEUE
    if_not_exists: Literal["create", "reject"] = "reject"
    on_disconnect: Literal["cancel", "continue"] = "continue"
    on_completion: Literal["delete", "keep"] | None = Field(
        None, description="Keep: a run without a thread gets one that stays."
    )
    after_seconds: float | None = Field(None, ge=0)
    durability: Literal["sync", "async", "exit"] | None = None
    checkpoint_during: bool | None = Field(None, description="False: durability exit.")
    feedback_keys: list[str] | None = Field(None, description="Of LangSmith: this changes nothing.")
    webhook: Any = None
    langsmith_tracer: Any = None
    strict_resume: Any = None

    async def task(
        self, caller: Caller, run_id: str, thread_id: str | None, about_thread: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Make the task of it, and the record of what was asked for; `about_thread` are the thread's metadata.

        Raises:
            ProblemError: 404 the assistant is unknown; 400, 422 fields that do not go together, or are not served.
        """
        self._refuse(thread_id)
        graph = await self._graph(caller)
        config = dict(self.config or {})
        configurable = config.get("configurable")
        configurable = {} if configurable is None else configurable
        if not isinstance(configurable, dict):
            raise invalid(Violation("config.configurable", "an object", kind(configurable)))
        if self.context and configurable:
            detail = "context and config.configurable exclude each other: LangGraph mirrors one into the other"
            raise ProblemError(400, "context_twice", detail)
        named = read_context(self.context) if self.context else read_configurable(configurable, thread_id)
        ids = {"run_id": run_id, "graph_id": graph, "assistant_id": assistant_id(graph)}
        config["configurable"] = {**named.others, **ids}
        if not isinstance(of_config := config.get("metadata") or {}, dict):
            raise invalid(Violation("config.metadata", "an object", kind(of_config)))
        about = {**about_thread, **of_config}
        if about:
            config["metadata"] = about
        metadata = {**(self.metadata or {}), **ids, "created_by": "system"}
        checkpoint = self.checkpoint or CheckpointBody()
        durability = self.durability or ("exit" if self.checkpoint_during is False else None)
        given: dict[str, Any] = {
            "command": self.command or None,
            "context": self.context or None,
            "checkpoint_id": self.checkpoint_id or checkpoint.checkpoint_id or named.checkpoint_id,
            "user_id": named.user_id,
            "interrupt_before": self.interrupt_before or None,
            "interrupt_after": self.interrupt_after or None,
            "delay_s": self.after_seconds,
            "durability": durability,
            "stream_subgraphs": self.stream_subgraphs or None,
        }
        document = {
            "task_id": run_id,
            "graph": graph,
            "thread_id": thread_id,
            "input": None if self.command else self.input,  # CopilotKit's client resumes with its whole state as input
            "config": config,
            "metadata": metadata,
            "stream": sorted({task_mode(mode) for mode in self.modes}),
            **{name: value for name, value in given.items() if value is not None},
        }
        shown = {**about, **{name: value for name, value in metadata.items() if name != "run_id"}}
        kwargs = {
            "input": self.input,
            "command": self.command,
            "config": {
                **config,
                "configurable": {
                    **(configurable or self.context or {}),
                    **ids,
                    "thread_id": thread_id or thread_of_its_own(run_id),
                },
                "metadata": shown,
            },
            "context": self.context or configurable,
            "stream_mode": self.modes,
            "interrupt_before": self.interrupt_before,
            "interrupt_after": self.interrupt_after,
            "webhook": None,
            "feedback_keys": self.feedback_keys,
            "temporary": thread_id is None,
            "subgraphs": self.stream_subgraphs,
            "resumable": bool(self.stream_resumable),
            "durability": durability or "async",
        }
        record = {"graph": graph, "metadata": shown, "kwargs": kwargs, "multitask_strategy": self.multitask_strategy}
        return document, record

    def without_outer_graph(self, status: str | None) -> "RunBody":
        """Read what RemoteGraph sends of the graph of which it is a node, as keys of LangGraph's own in `configurable`.

        Where that graph resumes, and this thread is interrupted or about to be, the run goes on with the answers, if
        there are any, instead of beginning anew with the node's input. Other such keys have no meaning here.
        """
        configurable = (self.config or {}).get("configurable")
        if not isinstance(configurable, dict) or not any(key.startswith(_LANGGRAPHS) for key in configurable):
            return self
        others = {key: value for key, value in configurable.items() if not key.startswith(_LANGGRAPHS)}
        changes: dict[str, Any] = {"config": {**(self.config or {}), "configurable": others}}
        is_resumed = configurable.get("__pregel_resuming") is True and not self.command
        if is_resumed and status in {"interrupted", "busy"}:
            answers = configurable.get("__pregel_resume_map")
            changes |= {"input": None, "command": {"resume": answers} if answers else None}
        return self.model_copy(update=changes)

    @property
    def modes(self) -> list[str]:
        """The stream modes in LangGraph's words."""
        return list(self.stream_mode or ["values"])

    async def _graph(self, caller: Caller) -> str:
        known = caller.gateway.known_graphs
        if graph := known.get(self.assistant_id):
            return graph
        try:
            graph = (await find(caller, self.assistant_id)).graph
        except ProblemError as error:
            if _UUID.fullmatch(self.assistant_id):
                raise
            raise ProblemError(422, "unknown_assistant", error.detail) from None
        known.add(self.assistant_id, graph)
        return graph

    def _refuse(self, thread_id: str | None) -> None:
        for name, expected in _NOT_SERVED.items():
            if (value := getattr(self, name)) is not None:
                raise invalid(Violation(name, expected, kind(value)))
        if self.input and self.command and self.command.get("resume") is None:  # agent-chat-ui sends {} beside a goto
            raise invalid(Violation("command", "either input or command", "both"))
        if self.checkpoint and self.checkpoint.checkpoint_ns:
            raise invalid(Violation("checkpoint.checkpoint_ns", "a checkpoint of the graph itself", "a subgraph's"))
        if thread_id is None:
            begins_at = self.checkpoint.checkpoint_id if self.checkpoint else None
            asked = {"checkpoint": begins_at, "checkpoint_id": self.checkpoint_id, "command": self.command}
            for name in (name for name, value in asked.items() if value):
                raise invalid(Violation(name, "nothing: a run without a thread has nothing to go on with", "a value"))


def task_mode(mode: str) -> str:
    """Return our name of a stream mode."""
    return "messages" if mode == "messages-tuple" else mode


def joins_messages(modes: Collection[str]) -> bool:
    """Whether messages are told as a whole: asked for in both forms, only their pieces are."""
    return "messages" in modes and "messages-tuple" not in modes

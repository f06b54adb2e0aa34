"""The routes and fields of LangGraph Server's API (0.16) and of what its SDKs send, with valid values of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PATHS = {
    "thread": "surface",
    "run": UNKNOWN,
    "assistant": UNKNOWN,
    "namespace": "child",
    "checkpoint_id": "c",
    "cron": UNKNOWN,
}


@dataclass(frozen=True)
class Route:
    """A route, what it must be given, and further fields with valid values of which each is tried alone."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    fields: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    better: str = ""
    """In what ours is better, if it is served."""
    is_list: bool = False
    """Whether the body is a list of such objects."""

    @property
    def names(self) -> tuple[str, ...]:
        """All fields and parameters."""
        return tuple(dict.fromkeys([*(self.body or {}), *self.fields, *self.query]))


_MODES = ("values", "updates", "messages", "messages-tuple", "custom", "events", "debug", "tasks", "checkpoints")
_RUN: dict[str, tuple[Any, ...]] = {
    "input": ({"messages": []}, None),
    "command": ({"resume": "yes"}, {"goto": "model"}, {"update": {"steps": []}}),
    "checkpoint": ({"checkpoint_id": "c", "checkpoint_ns": ""},),
    "checkpoint_id": ("c",),
    "metadata": ({"a": 1},),
    "config": ({"configurable": {"a": 1}, "tags": ["a"], "recursion_limit": 10},),
    "context": ({"tone": "dry"},),
    "stream_mode": _MODES,
    "stream_subgraphs": (True,),
    "stream_resumable": (True,),
    "interrupt_before": ("*", ["model"]),
    "interrupt_after": ("*", ["model"]),
    "multitask_strategy": ("reject", "enqueue", "interrupt", "rollback"),
    "if_not_exists": ("create", "reject"),
    "on_disconnect": ("cancel", "continue"),
    "on_completion": ("delete", "keep"),
    "after_seconds": (60,),
    "durability": ("sync", "async", "exit"),
    "checkpoint_during": (False,),
    "feedback_keys": (["helpful"],),
    "webhook": ("https://example.org/ended",),
    "langsmith_tracer": ({"project_name": "p"},),
    "strict_resume": (True,),
}
_ASSISTANT = {"assistant_id": "chat"}
_BETTER_RUN = "it outlives its worker and goes on from its last checkpoint; budgets and breakers hold for it"
_BETTER_STREAM = "it can be joined again from any event, at any gateway, also after a worker or a gateway died"

_SEARCHED_THREADS: dict[str, tuple[Any, ...]] = {
    "metadata": ({"a": 1},),
    "values": ({"a": 1},),
    "status": ("idle", "busy", "interrupted", "error"),
}
_PAGED: dict[str, tuple[Any, ...]] = {"limit": (5,), "offset": (1,), "sort_order": ("asc", "desc")}
_SUBGRAPHS = {"subgraphs": ("true",)}
_STATE_KEYS = (
    "values", "next", "tasks", "metadata", "created_at", "checkpoint", "parent_checkpoint", "interrupts",
    "values.messages",
)  # fmt: skip
_RUN_KEYS = (
    "run_id", "thread_id", "assistant_id", "created_at", "updated_at", "status", "metadata", "kwargs",
    "multitask_strategy", "cancel_reason",
)  # fmt: skip

ROUTES = [
    Route("GET", "/ok", query={"check_db": ("1",)}),
    Route("GET", "/info"),
    Route(
        "POST",
        "/assistants/search",
        {},
        {
            "metadata": ({},),
            "graph_id": ("chat",),
            "name": ("c",),
            **_PAGED,
            "sort_by": ("assistant_id", "created_at", "updated_at", "name", "graph_id"),
            "select": (["assistant_id"],),
        },
    ),
    Route("POST", "/assistants/count", {}, {"metadata": ({},), "graph_id": ("chat",), "name": ("c",)}),
    Route("GET", "/assistants/{assistant}", better="a graph's name works as an id does"),
    Route("GET", "/assistants/{assistant}/graph", query={"xray": ("true", "1")}),
    Route("GET", "/assistants/{assistant}/schemas", better="schemas also where pydantic cannot describe the state"),
    Route("GET", "/assistants/{assistant}/subgraphs", query={"recurse": ("true",)}),
    Route("GET", "/assistants/{assistant}/subgraphs/{namespace}", query={"recurse": ("true",)}),
    Route(
        "POST", "/assistants", {"graph_id": "chat"}, {"name": ("a",), "description": ("a",), "if_exists": ("raise",)}
    ),
    Route("PATCH", "/assistants/{assistant}", {}),
    Route("DELETE", "/assistants/{assistant}", query={"delete_threads": ("true",)}),
    Route("POST", "/assistants/{assistant}/versions", {}),
    Route("POST", "/assistants/{assistant}/latest", {"version": 1}),
    Route(
        "POST",
        "/threads",
        {},
        {
            "thread_id": ("surface-2",),
            "metadata": ({"a": 1},),
            "if_exists": ("raise", "do_nothing"),
            "ttl": tuple({"ttl": 60, "strategy": strategy} for strategy in ("delete", "keep_latest")),
            "supersteps": ([{"updates": [{"values": {"a": 1}, "as_node": "model"}]}],),
        },
        better="ids need not be UUIDs",
    ),
    Route(
        "POST",
        "/threads/search",
        {},
        {
            "ids": (["surface"],),
            **_SEARCHED_THREADS,
            **_PAGED,
            "sort_by": ("thread_id", "status", "created_at", "updated_at", "state_updated_at"),
            "select": (["thread_id"],),
            "extract": ({"a": "values.a"},),
        },
        better="`values` finds threads, where LangGraph's server fails if a thread has none",
    ),
    Route("POST", "/threads/count", {}, _SEARCHED_THREADS),
    Route("GET", "/threads/{thread}", query={"include": ("ttl",)}),
    Route(
        "PATCH",
        "/threads/{thread}",
        {"metadata": {}},
        {
            "metadata": ({"a": 1},),
            "ttl": tuple({"ttl": 60, "strategy": strategy} for strategy in ("delete", "keep_latest")),
        },
    ),
    Route("DELETE", "/threads/{thread}"),
    Route("POST", "/threads/{thread}/copy", better="the copy has its values, and runs go on with it"),
    Route("POST", "/threads/prune", {"thread_ids": ["surface"]}, {"strategy": ("delete", "keep_latest")}),
    Route("GET", "/threads/{thread}/storage"),
    Route("GET", "/threads/{thread}/state", query={**_SUBGRAPHS, "select": _STATE_KEYS}, better="`select` selects"),
    Route(
        "GET",
        "/threads/{thread}/state/{checkpoint_id}",
        query={**_SUBGRAPHS, "select": _STATE_KEYS},
        better="`select` selects",
    ),
    Route(
        "POST",
        "/threads/{thread}/state/checkpoint",
        {"checkpoint": {"checkpoint_id": "c"}},
        {"subgraphs": (True,), "select": tuple([key] for key in _STATE_KEYS)},
        better="`select` selects",
    ),
    Route(
        "POST",
        "/threads/{thread}/state",
        {"values": {}},
        {
            "values": ({"a": 1}, None),
            "as_node": ("model",),
            "checkpoint": ({"checkpoint_id": "c"},),
            "checkpoint_id": ("c",),
        },
    ),
    Route("GET", "/threads/{thread}/history", query={"limit": ("5",), "before": ("c",)}),
    Route(
        "POST",
        "/threads/{thread}/history",
        {},
        {
            "limit": (5,),
            "before": ("c", {"checkpoint_id": "c"}, {"configurable": {"checkpoint_id": "c"}}),
            "metadata": ({"source": "loop"},),
            "checkpoint": ({"checkpoint_ns": "child:1"},),
            "select": tuple([key] for key in _STATE_KEYS),
        },
        better="`select` selects, and `before` may be a checkpoint, its id or a config, as the SDKs document",
    ),
    Route(
        "GET",
        "/threads/{thread}/stream",
        query=dict.fromkeys(("stream_mode", "stream_modes"), ("run_modes", "lifecycle", "state_update")),
        better="an event's id is a place in its run: what came after it is found again at any gateway",
    ),
    Route("POST", "/threads/{thread}/runs", _ASSISTANT, _RUN, better=_BETTER_RUN),
    Route("POST", "/threads/{thread}/runs/stream", _ASSISTANT, _RUN, {"namespace": ("",)}, better=_BETTER_STREAM),
    Route("POST", "/threads/{thread}/runs/wait", _ASSISTANT, _RUN, better=_BETTER_RUN),
    Route("POST", "/runs", _ASSISTANT, _RUN, better=_BETTER_RUN),
    Route("POST", "/runs/stream", _ASSISTANT, _RUN, {"namespace": ("",)}, better=_BETTER_STREAM),
    Route("POST", "/runs/wait", _ASSISTANT, _RUN, better=_BETTER_RUN),
    Route("POST", "/runs/batch", _ASSISTANT, _RUN, is_list=True),
    Route(
        "POST",
        "/runs/cancel",
        {"thread_id": "surface", "run_ids": [UNKNOWN]},
        query={"action": ("interrupt", "rollback")},
    ),
    Route(
        "POST",
        "/runs/cancel",
        {"status": "all"},
        {"status": ("pending", "running", "all")},
        {"action": ("interrupt", "rollback")},
    ),
    Route(
        "GET",
        "/threads/{thread}/runs",
        query={
            "limit": ("5",),
            "offset": ("1",),
            "select": _RUN_KEYS,
            "status": ("pending", "running", "success", "error", "timeout", "interrupted"),
        },
    ),
    Route("GET", "/threads/{thread}/runs/{run}"),
    Route("DELETE", "/threads/{thread}/runs/{run}", better="the thread keeps its state; an open run is a 409"),
    Route(
        "GET",
        "/threads/{thread}/runs/{run}/join",
        query={"cancel_on_disconnect": ("0", "1")},
        better="answers what that run returned, not the thread's newest state",
    ),
    Route(
        "GET",
        "/threads/{thread}/runs/{run}/stream",
        query={
            "stream_mode": _MODES,
            "cancel_on_disconnect": ("0", "1"),
            "checkpoint_id": ("c",),
            "namespace": ("",),
        },
        better=f"every run: {_BETTER_STREAM}",
    ),
    Route(
        "POST",
        "/threads/{thread}/runs/{run}/cancel",
        query={
            "wait": ("0", "1"),
            "action": ("interrupt", "rollback"),
            "reason": ("taken",),
        },
        better="with `wait=1` it answers once the run has ended",
    ),
    Route(
        "PUT",
        "/store/items",
        {"namespace": ["a"], "key": "k", "value": {}},
        {
            "index": (False, ["a"]),
            "ttl": (60,),
        },
    ),
    Route("GET", "/store/items", query={"namespace": ("a",), "key": ("k",), "refresh_ttl": ("true",)}),
    Route("DELETE", "/store/items", {"namespace": ["a"], "key": "k"}),
    Route(
        "POST",
        "/store/items/search",
        {"namespace_prefix": ["a"]},
        {
            "filter": ({"a": 1},),
            "limit": (5,),
            "offset": (1,),
            "query": ("tea",),
            "refresh_ttl": (True,),
        },
    ),
    Route(
        "POST",
        "/store/namespaces",
        {},
        {
            "prefix": (["a"],),
            "suffix": (["a"],),
            "max_depth": (2,),
            "limit": (5,),
            "offset": (1,),
        },
    ),
    Route("POST", "/threads/{thread}/runs/crons", {"schedule": "* * * * *", **_ASSISTANT}),
    Route("POST", "/runs/crons", {"schedule": "* * * * *", **_ASSISTANT}),
    Route("POST", "/runs/crons/search", {}),
    Route("POST", "/runs/crons/count", {}),
    Route("GET", "/runs/crons/{cron}"),
    Route("PATCH", "/runs/crons/{cron}", {}),
    Route("DELETE", "/runs/crons/{cron}"),
    Route("POST", "/threads/{thread}/commands", {"id": 1, "method": "run.start", "params": _ASSISTANT}),
    Route("POST", "/threads/{thread}/stream/events", {"channels": ["values"]}),
    Route("POST", "/a2a/{assistant}", {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {}}),
    Route("POST", "/mcp/", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}),
]

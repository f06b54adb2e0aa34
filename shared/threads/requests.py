"""Requests about threads and the store, and how they travel: on a list of a graph, the reply on a stream of its own.

Keys:
    agent:requests:<graph>  list    requests that no worker has taken yet; graph empty: any worker answers; 10 s
    agent:reply:<id>        stream  one entry, the reply to a request, as an event `end`; a minute

A request is JSON: `id`, `operation`, `thread`, under which LangGraph keeps checkpoints, `graph`, and what the operation
takes besides as `arguments`. A request about the store has no graph, and its thread, `STORE`, only names the tenant.
With LGRQ_TASK_KEYS a request is followed by a space and `<key id>:<hex>`, signed by a key of the tenant, as tasks are.

A reply is JSON: `{"ok": value}`, or `{"error": text, "kind": one of `Refusal`}`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.shared.strict_json import read_json
from langgraph_rq.shared.tasks import tenant_of

GRAPHS = "agent:graphs"
ANSWERED_WITHIN_S = 10.0
"""A request that no worker has answered after this time is given up."""
REPLY_KEPT_MS = 60_000
MOST_THREADS = 100
"""Threads of one request."""
ANY_WORKER = ""
"""The graph of a request that any worker answers."""
STORE = "store"
"""What stands for the thread in a request about the store."""
_MOST_WAITING = 1_000
_KEPT_MS = round(ANSWERED_WITHIN_S * 1000)

NOT_SERVED, TOO_MANY = 0, -1
"""Answers of `request_call`, besides 1: it waits."""


class Operation(StrEnum):
    """What a worker can be asked."""

    STATE = "state"
    """The state of a thread, now or at a checkpoint."""
    STATES = "states"
    """The states of several threads of one tenant, by thread."""
    HISTORY = "history"
    """The checkpoints of a thread, the newest first."""
    UPDATE = "update"
    """The state of a thread at rest is written to, as by one of its nodes, or by several, one after the other."""
    COPY = "copy"
    """The checkpoints of a thread at rest are copied to another one."""
    PRUNE = "prune"
    """Of threads at rest of one tenant the older checkpoints are deleted, or all."""
    STORAGE = "storage"
    """How many bytes the checkpoints of a thread take."""
    EXPIRE = "expire"
    """The checkpoints of a thread at rest go with its row, if it has a TTL of its own."""
    DELETE = "delete"
    """All that is kept of a thread's state is deleted."""
    STORE_GET = "store_get"
    """An item of the store."""
    STORE_PUT = "store_put"
    """An item of the store is written."""
    STORE_DELETE = "store_delete"
    """An item of the store is deleted."""
    STORE_SEARCH = "store_search"
    """Items of the store below a namespace."""
    STORE_NAMESPACES = "store_namespaces"
    """Namespaces of the store."""


READS = frozenset(
    {
        Operation.STATE,
        Operation.STATES,
        Operation.HISTORY,
        Operation.STORAGE,
        Operation.STORE_GET,
        Operation.STORE_SEARCH,
        Operation.STORE_NAMESPACES,
    }
)
"""Operations that change nothing, so that two workers may run one."""


class Refusal(StrEnum):
    """Why there is no answer."""

    INVALID = "invalid"
    """The request itself is wrong."""
    BUSY = "busy"
    """A task of the thread has not ended."""
    FAILED = "failed"
    """The graph, or what it needs, failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    id: str
    operation: Operation
    graph: str
    thread: str
    """The thread under which LangGraph keeps checkpoints, with its tenant."""
    arguments: Mapping[str, Any]

    def text(self) -> bytes:
        """Write what `read` reads. Raises TypeError, ValueError: the arguments are not JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def read(cls, text: bytes) -> "Request":
        """Read a request. Raises ValueError: it is none, or of a later version."""
        found: Any = read_json(text)
        try:
            request = cls(**{**found, "operation": Operation(found["operation"])})
        except (TypeError, LookupError) as error:
            raise ValueError(str(error)) from None
        is_typed = all(isinstance(part, str) for part in (request.id, request.graph, request.thread))
        if not is_typed or not isinstance(request.arguments, dict):
            raise ValueError("a part has another type")
        if tenant_of(request.id) != tenant_of(request.thread):
            raise ValueError("the reply would be another tenant's")
        return request


def request_call(
    request: Request, text: bytes, *, most_waiting: int = _MOST_WAITING, now_ms: int | str = ""
) -> Call[list[Any]]:
    """Put a request on its graph's list; answers what became of it, and for NOT_SERVED the graphs that are served.

    Args:
        request: The request.
        text: Its own, or that with a signature.
        most_waiting: So many requests of the graph may wait, this one included.
        now_ms: In tests.
    """
    return Call(
        load_script("shared/threads/scripts/request"),
        [GRAPHS, requests_key(request.graph)],
        [request.graph, text, most_waiting, _KEPT_MS, now_ms],
        list,
    )


def requests_key(graph: str) -> str:
    """Return the list of requests of a graph."""
    return f"agent:requests:{graph}"


def reply_key(request_id: str) -> str:
    """Return the stream of the reply to a request."""
    return f"agent:reply:{request_id}"

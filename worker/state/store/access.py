"""The store's script calls: one per verb, fenced by the task that makes them, and patient while Redis is away."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from redis.exceptions import RedisError

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, Script, load_script
from langgraph_rq.shared.tasks import DEFAULT_TENANT
from langgraph_rq.worker.guards.event_loops import OUTAGE, EventLoops, stops_a_loop
from langgraph_rq.worker.guards.task_guard import current_task
from langgraph_rq.worker.state.outages import PATIENCE_S, CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.store.records import Namespace, write_namespace

NAMESPACES = 200
_ITEMS = 2_000
"""How many of both one script lists: less than a millisecond."""

T = TypeVar("T")


class Found(NamedTuple):
    """What find.lua returns: where to go on, and namespaces with the newest items of each."""

    is_more: bool
    last: bytes
    behind: bytes
    namespaces: list[tuple[bytes, list[bytes]]]


class StoreFencedError(CheckpointFencedError):
    """The run has ended, or another attempt at its task has begun: its items are refused."""


@dataclass(frozen=True, slots=True)
class Access:
    """Runs the store's scripts from any loop or thread.

    Args:
        loops: Connections to the Redis that holds the items.
        is_fenced: Whether this worker has lost its tasks; then nothing is written or waited for.
        patience_s: How long a call waits while Redis is away. A call that blocks an event loop does not wait.
    """

    loops: EventLoops
    is_fenced: Callable[[], bool] = lambda: False
    patience_s: float = PATIENCE_S

    async def run(self, call: Call[T]) -> T:
        """Run a call, and run it again while Redis is away: it must be idempotent.

        Raises:
            CheckpointOutageError: Redis was away for `patience_s`, or this worker has lost its lease.
        """
        gives_up_at = time.monotonic() + self.patience_s
        failures = 0
        while isinstance(reply := await self.loops.attempt(call), RedisError):
            failures += 1
            pause_s = OUTAGE.pause_s(failures)
            if stops_a_loop.get() or self.is_fenced() or time.monotonic() + pause_s > gives_up_at:
                raise CheckpointOutageError(f"the store could not be reached in Redis: {reply}") from reply
            await asyncio.sleep(pause_s)
        return reply

    async def put(self, namespace: Namespace, key: str, value: bytes, vectors: bytes, ttl_ms: int) -> None:
        """Write an item as a whole.

        Raises:
            StoreFencedError: the run has ended, or another attempt at its task has begun.
        """
        await self._write("put", namespace, key, ttl_ms, value, vectors)

    async def delete(self, namespace: Namespace, key: str) -> None:
        """Delete an item, if there is one; fenced as a put is."""
        await self._write("delete", namespace, key)

    async def get(self, namespace: Namespace, keys: Sequence[str], *, refresh_ttl: bool) -> list[bytes | None]:
        """Read items; None where there is none. `refresh_ttl`: those that expire live for their whole time again."""
        tenant = current_tenant()
        args: list[Argument] = [tenant, write_namespace(namespace), "1" if refresh_ttl else ""]
        return await self._read("get", [_register_key(tenant)], args, keys)

    async def vectors(self, namespace: Namespace, keys: Sequence[str]) -> list[bytes | None]:
        """Read the embeddings of items; None where there are none."""
        return await self._read("vectors", [], [current_tenant(), write_namespace(namespace)], keys)

    async def find(self, first: bytes, last: bytes, each: int = 0, behind: bytes = b"") -> Found:
        """List namespaces and the newest items of each, as many as one script may look at; see find.lua."""
        tenant = current_tenant()
        args: list[Argument] = [tenant, first, last, NAMESPACES, each, _ITEMS, behind]
        return await self.run(Call(_script("find"), [_register_key(tenant)], args, _read_found))

    async def raise_epoch(self, task_id: str, epoch: int) -> None:
        """Refuse from now on what earlier attempts at a task put."""
        await self.run(Call(_script("raise_epoch"), [_epoch_key(task_id)], [epoch], int))

    async def _read(
        self, verb: str, registers: list[str], args: list[Argument], keys: Sequence[str]
    ) -> list[bytes | None]:
        """Read of all keys, in as many scripts as large items need."""
        found: list[bytes | None] = []
        while len(found) < len(keys):
            found += await self.run(Call(_script(verb), registers, [*args, *keys[len(found) :]], list))
        return found

    async def _write(self, verb: str, namespace: Namespace, key: str, *args: bytes | int) -> None:
        run, tenant = current_task.get(), current_tenant()
        if self.is_fenced() or (run is not None and run.is_over):
            raise StoreFencedError("expected a run that still owns its task, got: one that has ended")
        keys: list[str] = [_register_key(tenant)]
        epoch: Argument = ""
        if run and run.task_id:
            keys.append(_epoch_key(run.task_id))
            epoch = run.epoch
        call = Call(_script(verb), keys, [tenant, write_namespace(namespace), key, *args, epoch], bool)
        if not await self.run(call):
            raise StoreFencedError("expected the newest attempt at a task, got: an earlier one")


def current_tenant() -> str:
    """Return whose items the caller sees: its task's tenant, or the default one."""
    run = current_task.get()
    return run.payer.tenant if run else DEFAULT_TENANT


def _script(verb: str) -> Script:
    return load_script(f"worker/state/store/scripts/{verb}")


def _register_key(tenant: str) -> str:
    return f"agent:store_namespaces:{tenant}"


def _epoch_key(task: str) -> str:
    return f"agent:store_epoch:{task}"


def _read_found(reply: Any) -> Found:
    is_more, last, behind, *found = reply
    return Found(bool(is_more), last, behind, list(zip(found[::2], found[1::2], strict=True)))

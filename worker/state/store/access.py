"""The store's script calls: one per verb, fenced by the task that makes them, and patient while Redis is away."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from redis.exceptions import RedisError

from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.shared.connections.scripts import Call, Script, load_script
from langgraph_rq.shared.tasks import DEFAULT_TENANT
from langgraph_rq.worker.guards.event_loops import EventLoops
from langgraph_rq.worker.guards.task_guard import current_task
from langgraph_rq.worker.state.outages import CheckpointFencedError, Outages
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
    """Another attempt at the run's task has begun: its items are refused."""


@dataclass(frozen=True, slots=True)
class Access:
    """Runs the store's scripts from any loop or thread.

    Args:
        loops: Connections to the Redis that holds the items.
        outages: Waits while Redis is away, and refuses what an abandoned run writes.
    """

    loops: EventLoops
    outages: Outages

    puts_into_sets: ClassVar[bool] = False
    """Whether embeddings go into vector sets, see vector_sets.py."""

    async def run(self, call: Call[T]) -> T:
        """Run a call, and run it again while Redis is away: it must be idempotent.

        Raises:
            CheckpointOutageError: as `Outages.retry`.
        """

        async def attempt() -> T:
            reply = await self.loops.attempt(call)
            if isinstance(reply, RedisError):
                raise reply
            return reply

        return await self.outages.retry(attempt)

    async def put(self, namespace: Namespace, key: str, value: bytes, vectors: bytes, ttl_ms: int) -> None:
        """Write an item as a whole.

        Raises:
            CheckpointFencedError: the run has ended, or, as StoreFencedError, another attempt at its task has begun.
        """
        await self._write("put", namespace, key, ttl_ms, value, vectors, "1" if self.puts_into_sets else "")

    async def delete(self, namespace: Namespace, key: str) -> None:
        """Delete an item, if there is one; fenced as a put is."""
        await self._write("delete", namespace, key)

    async def write_in_order(self, writes: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run writes such that each is later than the one before: calls that are made together are sent in order."""
        await all_of(writes)

    async def get(self, namespace: Namespace, keys: Sequence[str], *, refresh_ttl: bool) -> list[bytes | None]:
        """Read the first of some items, about a megabyte of them and one at least; None where there is none.

        `refresh_ttl`: those that expire live for their whole time again.
        """
        tenant = current_tenant()
        args: list[Argument] = [tenant, write_namespace(namespace), "1" if refresh_ttl else "", *keys]
        return await self.run(Call(load_verb("get"), [register_key(tenant)], args, list))

    async def vectors(self, namespace: Namespace, keys: Sequence[str]) -> list[bytes | None]:
        """Read the embeddings of the first of some items, as `get` does; None where there are none."""
        return await self.run(
            Call(load_verb("vectors"), [], [current_tenant(), write_namespace(namespace), *keys], list)
        )

    async def find(self, first: bytes, last: bytes, each: int = 0, behind: bytes = b"") -> Found:
        """List namespaces and the newest items of each, as many as one script may look at; see find.lua."""
        tenant = current_tenant()
        args: list[Argument] = [tenant, first, last, NAMESPACES, each, _ITEMS, behind]
        return await self.run(Call(load_verb("find"), [register_key(tenant)], args, _read_found))

    async def raise_epoch(self, task_id: str, epoch: int) -> None:
        """Refuse from now on what earlier attempts at a task put."""
        await self.run(Call(load_verb("raise_epoch"), [_epoch_key(task_id)], [epoch], int))

    async def _write(self, verb: str, namespace: Namespace, key: str, *args: Argument) -> None:
        task, epoch = self._attempt()
        tenant = current_tenant()
        keys = [register_key(tenant), *([_epoch_key(task)] if task else [])]
        call = Call(
            load_verb(verb), keys, [tenant, write_namespace(namespace), key, *args, epoch if task else ""], bool
        )
        if not await self.run(call):
            raise StoreFencedError("expected the newest attempt at a task, got: an earlier one")

    def _attempt(self) -> tuple[str, int]:
        """Return task and epoch of the caller; no task: empty.

        Raises:
            CheckpointFencedError: the run has ended, or this worker has lost its tasks.
        """
        run = current_task.get()
        self.outages.check_fence()
        return (run.task_id, run.epoch) if run and run.task_id else ("", 0)


async def all_of(steps: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run steps together; raise the first error when all have ended."""
    if len(steps) == 1:
        return [await steps[0]]
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def current_tenant() -> str:
    """Return whose items the caller sees: its task's tenant, or the default one."""
    run = current_task.get()
    return run.payer.tenant if run else DEFAULT_TENANT


def load_verb(verb: str) -> Script:
    """Return the script of a verb."""
    return load_script(f"worker/state/store/scripts/{verb}")


def register_key(tenant: str) -> str:
    """Return the key of a tenant's register of namespaces."""
    return f"agent:store_namespaces:{tenant}"


def _epoch_key(task: str) -> str:
    return f"agent:store_epoch:{task}"


def _read_found(reply: Any) -> Found:
    is_more, last, behind, *found = reply
    return Found(bool(is_more), last, behind, list(zip(found[::2], found[1::2], strict=True)))

"""The scripts of a thread's state: what they are called with, and what their refusals mean."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.background import BackgroundTasks
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.worker.state.later_ids import follow
from langgraph_rq.worker.state.outages import CheckpointFencedError, Outages
from langgraph_rq.worker.state.saver.lent import Lent
from langgraph_rq.worker.state.saver.records import Codec, split_name
from langgraph_rq.worker.state.saver.thread_keys import index_key, state_key
from langgraph_rq.worker.state.saver.thread_writes import NewCheckpoint, NodeWrites, ThreadWrites, Writer
from langgraph_rq.worker.state.serializer import StateSerializer

_CODECS = 1_024
_KEPT, _KEPT_BYTES = 512, 32_000
"""Tasks whose first checkpoint is kept until they write, and its bytes at most."""
HAS_CHECKPOINTS = 2


class ThreadScripts:
    """Calls the scripts of one loop, and waits while Redis is away.

    Args:
        redis: A client of the running loop.
        serializer: Writes and reads values.
        ttl_s: How long a thread is kept after its last write.
        outages: Retries calls.
        token: The fencing token of the running task on a thread; None: it runs none there.
    """

    def __init__(
        self,
        redis: AsyncRedis,
        serializer: StateSerializer,
        ttl_s: float,
        outages: Outages,
        token: Callable[[str], int | None],
    ) -> None:
        self.redis = redis
        self.ttl_ms = round(ttl_s * 1000)
        self.outages = outages
        self._serializer = serializer
        self._trips = Batcher(redis)
        self._writes = ThreadWrites(self._trips, self.ttl_ms)
        self._token = token
        self._codecs: dict[str, Codec] = {}
        self._begun: OrderedDict[str, tuple[Argument, list[Any]]] = OrderedDict()
        self.lent = Lent(self._token_of)
        self._soon: OrderedDict[tuple[str, Argument], asyncio.Future[int]] = OrderedDict()
        self._background = BackgroundTasks()

    def codec(self, thread: str) -> Codec:
        """Return what writes and reads the values of a thread; it derives the thread's keys once."""
        if thread not in self._codecs:
            if len(self._codecs) >= _CODECS:
                self._codecs.clear()
            self._codecs[thread] = Codec(self._serializer.at(f"thread:{thread}"))
        return self._codecs[thread]

    async def finish(self, timeout_s: float) -> None:
        """Let the round trip that is under way end, for at most `timeout_s`."""
        await self._trips.aclose(timeout_s)
        await self._background.close(0)

    async def begin(self, thread: str, name: bytes = b"") -> int:
        """Begin a task on a thread.

        Until the task writes, `found_at_begin` returns the checkpoint `name`, which no other may write meanwhile: it
        is what the task begins on, and is asked for twice.

        Returns:
            1, `HAS_CHECKPOINTS`, or 0 if a later task has begun.
        """
        status, *found = await self.write("begin", thread, [self.ttl_ms, name, _KEPT_BYTES])
        is_large = bool(found) and isinstance(found[0], bytes)  # only its name; it is read when it is asked for
        if found:
            follow(split_name(found[0] if is_large else found[0][0])[1])
        if status and name and not is_large:
            self._note_begun(thread, found)
        return int(status)

    def note_empty(self, thread: str) -> None:
        """Note that a task begins on a thread without checkpoints."""
        self._note_begun(thread, [])

    def is_task_of(self, thread: str) -> bool:
        """Whether a task of the thread runs, with a fencing token."""
        return self._token(thread) is not None

    def found_at_begin(self, thread: str) -> list[Any] | None:
        """Return what `begin` has read, as the script `read` does; None: it is not known any more."""
        token, found = self._begun.get(thread, ("", None))
        return found if token == self._token_of(thread) else None

    async def read(self, verb: str, thread: str, args: Sequence[Argument]) -> Any:
        """Call a script that writes nothing."""
        return await self._run(verb, [state_key(thread), index_key(thread)], args)

    async def write(self, verb: str, thread: str, args: Sequence[Argument], *, is_after_run: bool = False) -> Any:
        """Call a script that writes, with the token of the running task before its arguments.

        Args:
            verb: Name of the script.
            thread: Its thread.
            args: What follows the token.
            is_after_run: Whether the end of the run is no reason to refuse the call.

        Raises:
            CheckpointFencedError: the worker has lost the task.
        """
        if not is_after_run:
            self.outages.check_fence()
        self._forget_begun(thread)
        return await self._run(verb, [state_key(thread), index_key(thread)], [self._token_of(thread), *args])

    async def save(self, thread: str, run: str, what: NodeWrites | NewCheckpoint) -> int:
        """Save what a run has reached, as `ThreadWrites.save` does: after what is saved soon, or in one script with it.

        Args:
            thread: Its thread.
            run: Empty if the writer names none.
            what: What it has reached.

        Raises:
            CheckpointFencedError: the worker has lost the task.
        """
        writer = Writer(thread, run, self._token_of(thread))

        async def step() -> int:
            if (thread, writer.token) in self._soon and not self._writes.is_joined(writer, what):
                await self.saved_soon(thread)
            return await self._save(writer, what)

        return await self.outages.retry(step)

    def save_soon(self, thread: str, run: str, what: NewCheckpoint) -> None:
        """Save what the caller does not wait for, but `saved_soon` does, for the running task.

        Raises:
            CheckpointFencedError: the worker has lost the task.
        """
        key = thread, self._token_of(thread)
        save = partial(self._save, Writer(thread, run, key[1]), what)
        saving: Awaitable[int] | None = save()  # at once, so that what follows shares its script

        async def step() -> int:
            nonlocal saving
            answer, saving = saving or save(), None
            return await answer

        self._soon[key] = self._background.start(self.outages.retry(step))
        self._soon[key].add_done_callback(partial(self._forget_saved, key))
        if len(self._soon) > _KEPT:  # never one that is waited for
            oldest = next((one for one, saving in self._soon.items() if saving.done()), None)
            if oldest:
                del self._soon[oldest]

    async def saved_soon(self, thread: str) -> None:
        """Wait until what the running task saves soon is saved.

        Raises:
            CheckpointFencedError: a later task has begun on the thread.
        """
        key = thread, self._token_of(thread)
        if saving := self._soon.get(key):
            accepted(await asyncio.shield(saving))

    def _save(self, writer: Writer, what: NodeWrites | NewCheckpoint) -> Awaitable[int]:
        self.outages.check_fence()  # the run may have ended while Redis was away
        self._forget_begun(writer.thread)
        return self._writes.save(writer, what)

    def _forget_saved(self, key: tuple[str, Argument], saving: "asyncio.Task[int]") -> None:
        """Forget what is saved; what failed is left for those who wait."""
        if saving.cancelled() or self._soon.get(key) is not saving:
            return
        if error := saving.exception():
            # Without frames, which hold what was to be saved; the task keeps them.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            self._soon[key] = saving.get_loop().create_future()
            self._soon[key].set_exception(error)
            self._soon[key].exception()  # none may wait for it
        elif saving.result() > 0:
            del self._soon[key]

    def _forget_begun(self, thread: str) -> None:
        self._begun.pop(thread, None)
        self.lent.forget(thread)

    def _note_begun(self, thread: str, found: list[Any]) -> None:
        if self.is_task_of(thread):
            self._begun[thread] = self._token_of(thread), found
            if len(self._begun) > _KEPT:
                self._begun.popitem(last=False)

    def _token_of(self, thread: str) -> Argument:
        token = self._token(thread)
        return "" if token is None else token

    async def _run(self, verb: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        call = scripts.Call(scripts.load_script(f"worker/state/saver/scripts/{verb}"), keys, args, _as_it_is)
        return await self.outages.retry(lambda: self._trips.run(call))


def accepted(reply: int) -> int:
    """Return a script's reply, unless it refused: 0 or below.

    Raises:
        CheckpointFencedError: a later task, or a later attempt of the same one, has begun on the thread.
    """
    if reply <= 0:
        raise CheckpointFencedError("expected the last task that began on the thread, got: an earlier one")
    return reply


def size_of(found: Sequence[Any]) -> int:
    """Return the bytes of a checkpoint that a script has read."""
    _, record, writes, values = found
    return len(record) + sum(map(len, writes)) + sum(map(len, values))


def _as_it_is(reply: Any) -> Any:
    return reply

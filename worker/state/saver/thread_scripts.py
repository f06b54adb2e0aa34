"""The scripts of a thread's state: what they are called with, and what their refusals mean."""

from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis as AsyncRedis

from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.connections.batching import Batcher
from langgraph_rq.shared.connections.kept_connection import Argument
from langgraph_rq.worker.state.outages import CheckpointFencedError, Outages
from langgraph_rq.worker.state.saver.records import Codec
from langgraph_rq.worker.state.serializer import StateSerializer

_CODECS = 1_024
INDEX = "agent:thread_index:"


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
        self._token = token
        self._codecs: dict[str, Codec] = {}

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

    async def read(self, verb: str, thread: str, args: Sequence[Argument]) -> Any:
        """Call a script that writes nothing."""
        return await self._run(verb, [state_key(thread), index_key(thread)], args)

    async def write(
        self, verb: str, thread: str, args: Sequence[Argument], *keys: str, is_after_run: bool = False
    ) -> Any:
        """Call a script that writes, with the token of the running task before its arguments.

        Args:
            verb: Name of the script.
            thread: Its thread.
            args: What follows the token.
            keys: What follows the thread's own keys.
            is_after_run: Whether the end of the run is no reason to refuse the call.

        Raises:
            CheckpointFencedError: the worker has lost the task.
        """
        if not is_after_run:
            self.outages.check_fence()
        token = self._token(thread)
        fenced = ["" if token is None else token, *args]
        return await self._run(verb, [state_key(thread), index_key(thread), *keys], fenced)

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


def state_key(thread: str) -> str:
    """Return the key of all that belongs to a thread."""
    return f"agent:thread_state:{thread}"


def index_key(thread: str) -> str:
    """Return the key of the names of a thread's checkpoints."""
    return INDEX + thread


def run_key(run: str) -> str:
    """Return the key of the threads of a run."""
    return f"agent:run_threads:{run}"


def _as_it_is(reply: Any) -> Any:
    return reply

"""Run suspects in child processes: tasks under which two workers crashed, and one that blocked a worker's event loop.

A crash does not show which of the tasks in flight caused it. Suspects share child processes, in groups. When a child
dies, what is left of its group comes back in groups of half the size, until a task that ends its process is alone in
one: it ends as `poisoned`, every other task as usual. To find one among n takes log2(n) processes; run one by one, most
of the others would reach their deadlines while they wait. The size stands in the task's hash, for whichever worker
claims it next. The processes come from the worker's fork server, so they share none of the worker's memory.
"""

import asyncio
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.queue.answers import Claimed
from langgraph_rq.shared.queue.waits import AT_ONCE, WORKER, Wait
from langgraph_rq.shared.settings import RedisSettings, WorkerSettings
from langgraph_rq.shared.tasks import State, Task
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.fleet.forked.fork_server import DIED, ForkServer
from langgraph_rq.worker.fleet.forked.isolated import BEGUN, CANCEL, ENDED, Order
from langgraph_rq.worker.outputs.failures import Failure
from langgraph_rq.worker.task.result import Ended, Result, write_result
from langgraph_rq.worker.task.run import Released

ISOLATED_AFTER_CRASHES = 2
"""A task runs isolated after so many workers crashed while running it."""

_LARGEST_GROUP = 32
"""Tasks that share a child process as long as none has died under them."""
_MOST_CHILDREN = 4
"""Child processes of one worker at a time; other groups wait."""
_GATHER_S = 0.25
"""A group waits so long for others of its size: a worker claims suspects in several batches."""
_GRACE_S = 5.0
"""A task that still runs so long after its deadline, and after the grace of its run, is given up."""
_START_AGAIN = Wait(WORKER, 1_000)
_POLL_S = 0.2
"""The thread that reads a child's messages checks this often whether they are still wanted."""

_log = get_logger(__name__)


def is_to_be_isolated(claimed: Claimed) -> bool:
    """Return whether a claimed task must not run beside others: it may be what ended its earlier workers."""
    return claimed.crashes >= ISOLATED_AFTER_CRASHES or (claimed.crashes > 0 and claimed.blocked_in != "")


def group_size(claimed: Claimed) -> int:
    """Return how many tasks may share the child process of this one, itself included."""
    return 1 if claimed.blocked_in else claimed.group_size or _LARGEST_GROUP


@dataclass(slots=True, eq=False)
class _Suspect:
    """A task that waits for a child process, or runs in one."""

    claimed: Claimed
    worker: str
    task: Task | None
    """None: it is none that can be read, which its child process finds too."""
    since: float = field(default_factory=time.monotonic)
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a child process is started for it."""
    outcome: "asyncio.Future[Ended | Released | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    group: "_Group | None" = None
    node: str | None = None
    """The last node that began."""

    @property
    def left_s(self) -> float:
        """The time until its deadline."""
        passed_s = time.monotonic() - self.since
        return (self.claimed.deadline_at_ms - self.claimed.claimed_at_ms) / 1000 - passed_s

    def ordered(self) -> tuple[Claimed, str]:
        """Describe it to a child: the time that it has waited is part of its attempt, so that the deadline holds."""
        passed_ms = round((time.monotonic() - self.since) * 1000)
        return replace(self.claimed, claimed_at_ms=self.claimed.claimed_at_ms + passed_ms), self.worker


class _Group:
    """Tasks that share a child process. Its methods are called in the event loop."""

    def __init__(self, suspects: list[_Suspect]) -> None:
        self.suspects = tuple(suspects)
        self.left = {suspect.claimed.id: suspect for suspect in suspects}
        """Those that have neither ended nor been cancelled."""
        self.has_begun = False
        """Whether the graphs are loaded: from here on a crash is a task's fault."""
        self.is_over = threading.Event()
        """Set when none is left."""
        self._connection: Connection | None = None
        for suspect in suspects:
            suspect.group = self
            suspect.turn.set()

    def connect(self, connection: Connection) -> None:
        """Send to the child from now on."""
        self._connection = connection
        for suspect in self.suspects:
            if suspect.claimed.id not in self.left:
                self._cancel(suspect)

    def receive(self, kind: str, task_id: str, value: Any) -> None:
        """Take a message of the child."""
        suspect = self.left.get(task_id)
        if kind == BEGUN:
            self.has_begun = True
        elif suspect and kind == ENDED:
            self.end(suspect, value)
        elif suspect:
            suspect.node = value

    def end(self, suspect: _Suspect, outcome: "Ended | Released | Exception | None") -> None:
        """Give a task its outcome."""
        self._forget(suspect)
        if suspect.outcome.done():
            return
        if isinstance(outcome, Exception):
            suspect.outcome.set_exception(outcome)
        else:
            suspect.outcome.set_result(outcome)

    def leave(self, suspect: _Suspect) -> None:
        """End a task in the child that is not wanted any more, unless it has ended."""
        if suspect.claimed.id in self.left:
            self._forget(suspect)
            self._cancel(suspect)

    def _forget(self, suspect: _Suspect) -> None:
        self.left.pop(suspect.claimed.id, None)
        if not self.left:
            self.is_over.set()

    def _cancel(self, suspect: _Suspect) -> None:
        if self._connection:
            with suppress(OSError):  # the child is gone, or its connection is closed
                self._connection.send((CANCEL, suspect.claimed.id))


class Isolation:
    """Runs tasks in child processes, a few at a time.

    Args:
        fork_server: Forks the processes.
        settings: Of the worker; each child loads the graphs by them.
        redis: Where each child connects.
        result_bytes: Longest result document.
    """

    def __init__(
        self, fork_server: ForkServer, settings: WorkerSettings, redis: RedisSettings, result_bytes: int
    ) -> None:
        self.fork_server = fork_server
        self._settings = settings
        self._redis = redis
        self._result_bytes = result_bytes
        self._waiting: list[_Suspect] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, claimed: Claimed, worker: str, task: Task | None) -> Ended | Released | None:
        """Run a task in a child process; returns what `run_task` returns. Cancelling it ends the task there."""
        suspect = _Suspect(claimed, worker, task)
        self._waiting.append(suspect)
        asyncio.get_running_loop().call_later(_GATHER_S, self._start_groups)
        where = "while other tasks ran isolated"
        try:
            async with asyncio.timeout(suspect.left_s):
                await suspect.turn.wait()
            where = "in a child process"
            async with asyncio.timeout(suspect.left_s + self._settings.cancel_grace_s + _GRACE_S):
                return await suspect.outcome
        except TimeoutError:
            return self._end(suspect, State.TIMEOUT, (ErrorType.TIMEOUT, f"the deadline passed {where}"))
        finally:
            if suspect.group:
                suspect.group.leave(suspect)
            else:
                self._waiting.remove(suspect)

    def _start_groups(self) -> None:
        """Start a child for each group of waiting tasks while there are not too many, the longest waiting first."""
        while self._waiting and len(self._running) < _MOST_CHILDREN:
            size = group_size(self._waiting[0].claimed)
            group = _Group([suspect for suspect in self._waiting if group_size(suspect.claimed) == size][:size])
            self._waiting = [suspect for suspect in self._waiting if not suspect.group]
            running = asyncio.create_task(self._run_group(group))
            self._running.add(running)
            running.add_done_callback(self._end_group)

    def _end_group(self, running: "asyncio.Task[None]") -> None:
        self._running.discard(running)
        if not running.cancelled():
            self._start_groups()

    async def _run_group(self, group: _Group) -> None:
        loop = asyncio.get_running_loop()
        outcome: Released | Exception | None = None
        exit_code = 0
        try:
            exit_code = await loop.run_in_executor(None, self._converse, group, loop)
        except OSError as error:  # too many processes or files: no fault of the tasks
            outcome = Released(_START_AGAIN, f"its process could not be started: {error}")
        except Exception as error:
            outcome = error
        left = tuple(group.left.values())
        for suspect in left:
            group.end(suspect, outcome or self._judge(group, exit_code, len(left), suspect))

    def _converse(self, group: _Group, loop: asyncio.AbstractEventLoop) -> int:
        """Start a child and pass on its messages until its end, or until none is wanted. Runs in a thread.

        Returns:
            The child's exit code, negative for a signal.
        """
        with self.fork_server.fork() as connection:
            order = Order([suspect.ordered() for suspect in group.suspects], self._settings, self._redis)
            connection.send(order)
            loop.call_soon_threadsafe(group.connect, connection)
            with suppress(EOFError, OSError):
                while not group.is_over.is_set():
                    if not connection.poll(_POLL_S):
                        continue
                    kind, *about = connection.recv()
                    if kind == DIED:
                        return int(about[0])
                    loop.call_soon_threadsafe(group.receive, kind, *about)
        return 0

    def _judge(self, group: _Group, exit_code: int, left: int, suspect: _Suspect) -> Ended | Released:
        """Decide what happens to a task whose child died with `left` unfinished ones."""
        death = f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        if not group.has_begun:
            return Released(_START_AGAIN, f"its process could not be started: {death}")
        if len(group.suspects) > 1:
            return Released(AT_ONCE, f"{death}: a process of {left} suspects", group_size=(left + 1) // 2)
        node, crashes = suspect.node, suspect.claimed.crashes
        where = f"in node {node!r}" if node else "before its first node"
        _log.error("task.poisoned", task_id=suspect.claimed.id, node=node, exit_code=exit_code)
        message = f"the task ended {crashes + 1} processes, the last one its own, {where}: {death}"
        return self._end(suspect, State.ERROR, (ErrorType.POISONED, message), node)

    def _end(self, suspect: _Suspect, state: State, error: tuple[ErrorType, str], node: str | None = None) -> Ended:
        result = Result(state, error=error, failure=Failure(None, node))
        return write_result(
            suspect.claimed,
            suspect.task,
            result,
            suspect.worker,
            self._result_bytes,
            suspect.since,
            is_question_open=True,
        )

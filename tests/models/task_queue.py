"""The queue in plain Python: what each verb may answer. It knows no lists, only what a task, a worker and a thread are.

Where Redis has a choice (which of several users is next) the model says which answers are allowed, and that no free
worker goes away empty-handed while a task could run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from langgraph_rq.shared.queue.answers import Finished, Ownership, Submitted
from langgraph_rq.shared.queue.waits import Wait
from langgraph_rq.shared.tasks import State

LEASE_MS = 8_000
FIRST_WAIT_MS = 1_000
LONGEST_WAIT_MS = 60_000
MARKED_AGAIN_MS = 5_000
WOKEN_BY_CLAIM = 16
REAPED = 40
MOST_TASKS_OF_A_MARK = 100
LOOK_AGAIN_MS = 5_000


@dataclass
class ModelTask:
    queue: str
    graph: str
    user: str
    thread: str
    body: str
    deadline_at: int
    look_at: int
    """The deadline; past it, when the sweeper looks at the task again."""
    order: int
    state: State = State.PENDING
    epoch: int = 0
    owner: str = ""
    is_delayed: bool = False
    thing: str = ""
    """What it waits for, or waited for last."""
    in_row: int = 0
    """How often in a row it has waited for that."""
    since: int = 0
    earliest_at: int = 0
    """When it goes on if its set is marked."""
    latest_at: int = 0
    """When it goes on anyway."""
    is_in_set: bool = False
    """Whether it waits for its thing, and not for its time only."""
    waits: int = 0
    crashes: int = 0
    failures: int = 0
    is_cancelled: bool = False
    blocked_in: str = ""
    group_size: int = 0
    kept_for: str = ""
    was_put_back: bool = False
    """It has left its queue before, so that its place among its user's tasks is not its order any more."""


@dataclass
class QueueModel:
    """`graphs`: worker -> the graphs that it serves."""

    cap: int
    graphs: Mapping[str, Sequence[str]]
    tasks: dict[str, ModelTask] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Thing -> from when on how many of its tasks may go on, 0 for all."""

    def submit(
        self, task_id: str, queue: str, graph: str, user: str, thread: str, body: str, deadline_at: int
    ) -> Submitted:
        known = self.tasks.get(task_id)
        if known:
            return Submitted.EXISTS if known.body == body else Submitted.CONFLICT
        self.tasks[task_id] = ModelTask(queue, graph, user, thread, body, deadline_at, deadline_at, len(self.tasks))
        return Submitted.CREATED

    def join(self, worker: str, now: int) -> None:
        self.leases[worker] = now + LEASE_MS

    def renew(self, worker: str, now: int) -> tuple[set[str], set[str]] | None:
        if worker not in self.leases:
            return None
        self.leases[worker] = now + LEASE_MS
        own = {task_id for task_id, task in self.tasks.items() if self.runs(task, worker)}
        return own, {task_id for task_id in own if self.tasks[task_id].is_cancelled}

    def claimed(self, worker: str, n: int, queues: Sequence[str], ids: Sequence[str], now: int) -> None:
        """Check one claim's answer, task by task, and take it over."""
        if self.leases.get(worker, 0) <= now:
            assert not ids
            return
        self.take_marked(WOKEN_BY_CLAIM, now)
        for task_id in ids:
            task = self.tasks[task_id]
            more_urgent = queues[: queues.index(task.queue)]
            assert task_id in self.runnable([task.queue])
            assert task.is_cancelled or self.serves(worker, task), "a worker got a task that it cannot run"
            assert not self.runnable(more_urgent, worker), "a more urgent queue was passed over"
            assert task_id in self.first_of_their_users([task.queue]), (
                "an earlier task of the same user was passed over"
            )
            task.state, task.owner, task.epoch = State.RUNNING, worker, task.epoch + 1
        assert len(ids) <= n
        assert len(ids) == n or not self.runnable(queues, worker), "a task could have run"

    def runnable(self, queues: Iterable[str], worker: str | None = None) -> set[str]:
        """Name the tasks that may run; with `worker`, of graphs that it serves."""
        return {
            task_id
            for task_id, task in self.tasks.items()
            if task.queue in set(queues)
            and task.state is State.PENDING
            and not task.is_delayed
            and (not task.thread or self.head(task.thread) == task_id)
            and (not self.cap or self.in_flight(task.user) < self.cap)
            and (worker is None or self.serves(worker, task))
        }

    def first_of_their_users(self, queues: Iterable[str]) -> set[str]:
        """Leave out what has an earlier neighbour: of the same user, in the same queue, both there from the first.

        Tasks of a graph that not every worker serves may have been moved, behind later ones.
        """
        runnable = self.runnable(queues)

        def is_behind(one: ModelTask) -> bool:
            return any(
                other.user == one.user
                and other.queue == one.queue
                and other.order < one.order
                and not self._may_have_moved(other)
                for other in (self.tasks[task_id] for task_id in runnable)
            )

        return {
            task_id
            for task_id in runnable
            if self._may_have_moved(self.tasks[task_id]) or not is_behind(self.tasks[task_id])
        }

    def _may_have_moved(self, task: ModelTask) -> bool:
        is_served_by_all = all(task.graph in graphs for graphs in self.graphs.values())
        return task.was_put_back or bool(task.thread) or not is_served_by_all

    def serves(self, worker: str, task: ModelTask) -> bool:
        return task.graph in self.graphs[worker]

    def head(self, thread: str) -> str:
        """The oldest task of the thread that has not ended: the only one that may run."""
        open_tasks = [
            (task.order, id_) for id_, task in self.tasks.items() if task.thread == thread and self.is_open(task)
        ]
        return min(open_tasks)[1]

    def in_flight(self, user: str) -> int:
        return sum(task.user == user and task.state is State.RUNNING for task in self.tasks.values())

    def finish(self, task_id: str, epoch: int, worker: str, state: State) -> Finished:
        task = self.tasks[task_id]
        if (task.epoch, task.owner) != (epoch, worker):
            return Finished.FENCED
        if task.state is not State.RUNNING:
            return Finished.ALREADY_MINE if task.state is state else Finished.FENCED
        task.state = state
        return Finished.WRITTEN

    def release(
        self, task_id: str, epoch: int, worker: str, wait: Wait, now: int, *, failed: bool, group_size: int
    ) -> bool:
        task = self.tasks[task_id]
        if not self.runs(task, worker) or task.epoch != epoch:
            return False
        self._put_back(task)
        task.failures += failed
        task.group_size = group_size or task.group_size
        task.waits += not wait.is_attempt
        if wait.thing and not task.is_cancelled:
            self._enter(task, wait, now)
        return True

    def _enter(self, task: ModelTask, wait: Wait, now: int) -> None:
        is_again = task.thing == wait.thing
        task.thing, task.in_row = wait.thing, task.in_row + 1 if is_again else 1
        task.since = task.since if is_again else now
        mark = self.marks.get(wait.thing)
        is_free = mark is None or (mark[0] <= now and mark[1] == 0)
        if not wait.delay_ms and task.in_row == 1 and is_free:
            return
        task.is_delayed, task.is_in_set = True, not wait.delay_ms

    def entered(self, task_id: str, wait: Wait, earliest_at: int, now: int) -> None:
        """Take over when a task goes on that has just begun to wait: the script throws dice within a range."""
        task = self.tasks[task_id]
        shortest = min(FIRST_WAIT_MS * 2 ** (task.in_row - 1), LONGEST_WAIT_MS) if wait.doubles else 0
        low, high = max(shortest, wait.delay_ms), max(min(shortest * 1.25, LONGEST_WAIT_MS), wait.delay_ms)
        assert low - 1 <= earliest_at - now <= high + 1
        task.earliest_at, task.latest_at = earliest_at, earliest_at if wait.delay_ms else now + LONGEST_WAIT_MS
        if task.is_in_set:
            self.marks.setdefault(wait.thing, (earliest_at, 1))

    def refuse(self, thing: str, wait_ms: int, now: int) -> None:
        at, limit = self.marks.get(thing, (now + 1, 0))
        if not limit or at > now:
            self.marks[thing] = (now + wait_ms, 1)

    def wake(self, things: Sequence[str], tasks: int, now: int) -> int:
        """Return how many of the things are waited for, or may be soon."""
        known = [thing for thing in things if thing in self.marks]
        for thing in known:
            at, limit = self.marks[thing]
            if at > now or (limit and not tasks):
                self.marks[thing] = (now, tasks)
            elif limit:
                self.marks[thing] = (at, min(limit + tasks, MOST_TASKS_OF_A_MARK))
        return len(known)

    def take_marked(self, n: int, now: int) -> set[str]:
        gone: set[str] = set()
        for thing in sorted((thing for thing, (at, _) in self.marks.items() if at <= now), key=self._marked_at)[:n]:
            if len(gone) < n:
                gone |= self._take_from(thing, n - len(gone), now)
        return gone

    def _marked_at(self, thing: str) -> tuple[int, str]:
        return self.marks[thing][0], thing

    def _take_from(self, thing: str, most: int, now: int) -> set[str]:
        _, limit = self.marks[thing]
        waiting = sorted(
            (task.earliest_at, id_)
            for id_, task in self.tasks.items()
            if task.is_delayed and task.is_in_set and task.thing == thing
        )
        going = [id_ for at, id_ in waiting if at <= now][: min(most, limit) if limit else most]
        for task_id in going:
            self._go_on(self.tasks[task_id])
        left = [at for at, id_ in waiting if id_ not in going]
        if not left:
            del self.marks[thing]
        elif limit and len(going) >= limit:
            self.marks[thing] = (
                max(now + MARKED_AGAIN_MS, left[0]),
                min(2 * len(going), MOST_TASKS_OF_A_MARK),
            )
        else:
            self.marks[thing] = (left[0], limit - len(going) if limit else 0)
        return set(going)

    @staticmethod
    def _go_on(task: ModelTask) -> None:
        task.is_delayed = task.is_in_set = False

    def owns(self, task_id: str, epoch: int, worker: str, now: int) -> Ownership:
        task = self.tasks[task_id]
        if not self.runs(task, worker) or task.epoch != epoch:
            return Ownership.GONE
        if task.is_cancelled:
            return Ownership.CANCELLED
        return Ownership.OVERDUE if task.deadline_at <= now else Ownership.MINE

    def keep(self, task_id: str, epoch: int, worker: str, thing: str) -> bool:
        task = self.tasks[task_id]
        if not self.runs(task, worker) or task.epoch != epoch:
            return False
        task.kept_for = f"{epoch}:{thing}" if thing else ""
        return True

    def block(self, task_id: str, epoch: int, worker: str, line: str) -> bool:
        task = self.tasks[task_id]
        if not self.runs(task, worker) or task.epoch != epoch:
            return False
        task.blocked_in = line
        return True

    def reap(self, now: int) -> tuple[set[str], set[str], set[str]]:
        """Answers what is reaped, what was due, and what is free."""
        dead = {worker for worker, ends_at in self.leases.items() if ends_at <= now}
        reaped = {id_ for id_, task in self.tasks.items() if task.state is State.RUNNING and task.owner in dead}
        for task_id in reaped:
            self.tasks[task_id].crashes += 1
            self._put_back(self.tasks[task_id])
        for worker in dead:
            del self.leases[worker]
        due = {id_ for id_, task in self.tasks.items() if task.is_delayed and task.latest_at <= now}
        put_off = {id_ for id_ in due if self.tasks[id_].is_in_set and self._marked_at(self.tasks[id_].thing)[0] > now}
        for task_id in put_off:
            self.tasks[task_id].latest_at = now + LONGEST_WAIT_MS
        for task_id in due - put_off:
            self._go_on(self.tasks[task_id])
        return reaped, due - put_off, self.take_marked(REAPED - len(reaped) - len(due - put_off), now)

    def cancel(self, task_id: str, state: State) -> tuple[State | None, bool]:
        """Return the state in which the task is now, and whether it was ended."""
        task = self.tasks.get(task_id)
        if task is None:
            return None, False
        if task.state is State.RUNNING and state is State.CANCELLED:
            task.is_cancelled = True
        if task.state is State.PENDING:
            task.state = state
            self._go_on(task)
            return task.state, True
        return task.state, False

    def open_ids(self) -> set[str]:
        return {task_id for task_id, task in self.tasks.items() if self.is_open(task)}

    def sweep(self, n: int, now: int) -> set[str]:
        """Return which of the first `n` tasks that are due for a look are past their deadline and wait."""
        due = sorted((task.look_at, id_) for id_, task in self.tasks.items() if self.is_open(task))
        looked_at = [id_ for look_at, id_ in due[:n] if look_at <= now]
        for task_id in looked_at:
            self.tasks[task_id].look_at = now + LOOK_AGAIN_MS
        return {id_ for id_ in looked_at if self.tasks[id_].state is State.PENDING}

    @staticmethod
    def is_open(task: ModelTask) -> bool:
        return not task.state.is_terminal

    @staticmethod
    def runs(task: ModelTask, worker: str) -> bool:
        return task.state is State.RUNNING and task.owner == worker

    @staticmethod
    def _put_back(task: ModelTask) -> None:
        task.state, task.owner, task.was_put_back = State.PENDING, "", True

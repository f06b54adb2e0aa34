"""Random histories of a queue: after every step Redis and the plain-Python model must agree."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis import Redis

from langgraph_rq.shared.connections.scripts import Call, Script, run_sync
from langgraph_rq.shared.queue.answers import Claimed, Finished
from langgraph_rq.shared.queue.attempts import block_call, claim_call, finish_call, owns_call, release_call
from langgraph_rq.shared.queue.keys import graph_list, side_queue
from langgraph_rq.shared.queue.upkeep import reap_call, renew_call, sweep_call
from langgraph_rq.shared.queue.verbs import QueueTimes, cancel_call, submit_call
from langgraph_rq.shared.queue.waits import AT_ONCE, REDIS, RETRY, Wait, await_call, keep_call, wake_call
from langgraph_rq.shared.tasks import DEFAULT_TENANT, State, Task, TaskLimits
from tests.models.task_queue import LEASE_MS, QueueModel

IDS = [f"t{i}" for i in range(8)] + [f"acme--t{i}" for i in range(4)]
QUEUES = ["q_high", "q"]
WORKERS = ["w1", "w2"]
GRAPHS = {"w1": ["assistant", "left"], "w2": ["assistant", "right"]}
THINGS = ["breaker:m", "budget:global"]
WAITS = [
    *map(Wait, THINGS),
    AT_ONCE,
    AT_ONCE,
    Wait(RETRY, 1_000, doubles=False, is_attempt=True),
    Wait(RETRY, 20_000, doubles=False, is_attempt=True),
    Wait(REDIS, 1_000),
]
SIDE_QUEUES = [side_queue(queue, graph) for queue in QUEUES for graph in ("left", "right")]


class QueueMachine(RuleBasedStateMachine):
    """`scripts` replaces scripts by mutants, by name."""

    def __init__(self, redis: Redis, scripts: Mapping[str, Script]) -> None:
        super().__init__()
        self.redis, self.scripts = redis, scripts
        self.now = 1_800_000_000_000
        self.claims: list[tuple[str, Claimed]] = []

    @initialize(cap=st.sampled_from([0, 0, 1, 2]))
    def start_with_an_empty_queue(self, cap: int) -> None:
        self.redis.flushdb()
        self.times, self.model = QueueTimes(user_tasks=cap), QueueModel(cap, GRAPHS)
        for worker in WORKERS:
            self.join(worker)

    @rule(
        task_id=st.sampled_from(IDS),
        queue=st.sampled_from(QUEUES),
        graph=st.sampled_from(["assistant", "assistant", "left", "right"]),
        user=st.sampled_from(["ann", "ann", "bob", None]),
        thread=st.sampled_from([None, None, "x", "y"]),
        deadline_s=st.sampled_from([5, 300]),
    )
    def submit(
        self, task_id: str, queue: str, graph: str, user: str | None, thread: str | None, deadline_s: int
    ) -> None:
        tenant, _, name = task_id.rpartition("--")
        document = {
            "task_id": name,
            "tenant": tenant or DEFAULT_TENANT,
            "graph": graph,
            "input": {},
            "user_id": user,
            "thread_id": thread,
            "deadline_s": deadline_s,
        }
        task = Task.parse(document, TaskLimits())
        answer = self._run(submit_call(task, queue, self.times, self.now))
        deadline_at = self.now + deadline_s * 1000
        thread_key = task.thread_key if thread else ""
        expected = self.model.submit(task_id, queue, graph, task.user_key, thread_key, task.digest, deadline_at)
        assert answer.outcome is expected

    @rule(worker=st.sampled_from(WORKERS), n=st.sampled_from([1, 3, 20]))
    def claim(self, worker: str, n: int) -> None:
        queues = [name for queue in QUEUES for name in (queue, *(side_queue(queue, one) for one in GRAPHS[worker]))]
        answer = self._run(claim_call(worker, n, queues, graph_list(GRAPHS[worker]), self.times, self.now))
        assert answer.has_lease == (self.model.leases.get(worker, 0) > self.now)
        self.model.claimed(worker, n, QUEUES, [one.id for one in answer.tasks], self.now)
        for one in answer.tasks:
            task = self.model.tasks[one.id]
            assert (one.attempts, one.crashes, one.failures) == (task.epoch - task.waits, task.crashes, task.failures)
            assert (one.is_cancelled, one.blocked_in) == (task.is_cancelled, task.blocked_in)
            assert one.group_size == task.group_size
        self.claims += [(worker, one) for one in answer.tasks]

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), state=st.sampled_from([State.SUCCESS, State.ERROR]))
    def finish_any_attempt_perhaps_again(self, data: st.DataObject, state: State) -> None:
        worker, claimed = self._some_claim(data)
        answer = self._run(finish_call(claimed, worker, state, b"{}", self.times, now_ms=self.now))
        assert answer is self.model.finish(claimed.id, claimed.epoch, worker, state)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), wait=st.sampled_from(WAITS), failed=st.booleans(), group_size=st.sampled_from([0, 0, 16]))
    def release_any_attempt_perhaps_again(
        self, data: st.DataObject, wait: Wait, *, failed: bool, group_size: int
    ) -> None:
        worker, one = self._some_claim(data)
        self._release(worker, one, wait, failed=failed, group_size=group_size)

    @precondition(lambda self: self.claims)
    @rule(
        waits=st.lists(st.sampled_from(WAITS[:2]), min_size=1, max_size=3),
        attempts=st.sampled_from([1, 1, 3]),
        tasks=st.sampled_from([None, 0, 1]),
        ms=st.sampled_from([0, 1_300, 2_600, 5_000]),
    )
    def let_the_last_attempts_wait_and_come_back(
        self, waits: list[Wait], attempts: int, tasks: int | None, ms: int
    ) -> None:
        for wait in waits:
            self.refuse(wait.thing, 20_000)
            for worker, one in self.claims[-attempts:]:
                self._release(worker, one, wait)
            if tasks is not None:
                self.wake([wait.thing], tasks)
            self.now += ms
            self.join("w1")
            self.claim("w1", 20)

    def _release(self, worker: str, one: Claimed, wait: Wait, *, failed: bool = False, group_size: int = 0) -> None:
        how: dict[str, Any] = {"failed": failed, "group_size": group_size}
        call = release_call(one.id, one.epoch, one.queue, worker, wait, **how, now_ms=self.now)
        expected = self.model.release(one.id, one.epoch, worker, wait, self.now, **how)
        assert self._run(call) == expected
        task = self.model.tasks[one.id]
        if expected and task.is_delayed:
            earliest_at = self.redis.zscore(f"agent:wait:{wait.thing}" if task.is_in_set else "agent:delayed", one.id)
            assert earliest_at is not None
            self.model.entered(one.id, wait, int(earliest_at), self.now)

    @rule(thing=st.sampled_from(THINGS), wait_ms=st.sampled_from([1_000, 20_000, 100_000]))
    def refuse(self, thing: str, wait_ms: int) -> None:
        self._run(await_call(thing, wait_ms, self.now))
        self.model.refuse(thing, wait_ms, self.now)

    @rule(things=st.sampled_from([THINGS[:1], THINGS[1:], THINGS]), tasks=st.sampled_from([0, 0, 1, 2]))
    def wake(self, things: list[str], tasks: int) -> None:
        assert self._run(wake_call(things, tasks, self.now)) == self.model.wake(things, tasks, self.now)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def ask_whether_any_attempt_may_go_on(self, data: st.DataObject) -> None:
        worker, one = self._some_claim(data)
        answer = self._run(owns_call(one.id, one.epoch, worker, self.now))
        assert answer is self.model.owns(one.id, one.epoch, worker, self.now)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), thing=st.sampled_from([*THINGS, ""]))
    def keep_any_attempt(self, data: st.DataObject, thing: str) -> None:
        worker, one = self._some_claim(data)
        answer = self._run(keep_call(one.id, one.epoch, worker, thing))
        assert answer == self.model.keep(one.id, one.epoch, worker, thing)
        kept_for = self.redis.hget(f"agent:task:{one.id}", "kept_for") or b""
        assert kept_for.decode() == self.model.tasks[one.id].kept_for

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def mark_any_attempt_as_blocking(self, data: st.DataObject) -> None:
        worker, one = self._some_claim(data)
        line = f"graph.py:{one.epoch}"
        answer = self._run(block_call(one.id, one.epoch, worker, line))
        assert answer == self.model.block(one.id, one.epoch, worker, line)

    @rule(worker=st.sampled_from(WORKERS))
    def join(self, worker: str) -> None:
        self._run(self._renewal(worker, join=True))
        self.model.join(worker, self.now)

    @rule(worker=st.sampled_from(WORKERS))
    def renew(self, worker: str) -> None:
        answer = self._run(self._renewal(worker, join=False))
        expected = self.model.renew(worker, self.now)
        assert (answer and (answer.own, answer.cancelled)) == expected

    @rule()
    def reap(self) -> None:
        answer = self._run(reap_call(now_ms=self.now))
        reaped, promoted, woken = self.model.reap(self.now)
        assert set(answer.reaped) == reaped
        assert set(answer.promoted) == promoted
        assert set(answer.woken) == woken

    @rule()
    def let_the_workers_die_and_others_take_over(self) -> None:
        self.now += LEASE_MS + 1
        self.reap()
        self.join("w2")
        self.claim("w2", 20)

    @precondition(lambda self: self.model.open_ids())
    @rule(data=st.data())
    def cancel_an_open_task_and_hear_of_it(self, data: st.DataObject) -> None:
        self.cancel(data.draw(st.sampled_from(sorted(self.model.open_ids())), label="open task"), State.CANCELLED)
        for worker in WORKERS:
            self.renew(worker)

    @rule(task_id=st.sampled_from(IDS), queue=st.sampled_from(QUEUES + SIDE_QUEUES), at_front=st.booleans())
    def push_an_id_again_as_stock_rq_does(self, task_id: str, queue: str, *, at_front: bool) -> None:
        push = self.redis.lpush if at_front else self.redis.rpush
        push(f"rq:queue:{queue}", task_id)

    @rule(task_id=st.sampled_from(IDS), state=st.sampled_from([State.CANCELLED, State.TIMEOUT]))
    def cancel(self, task_id: str, state: State) -> None:
        answer = self._run(cancel_call(task_id, state, b"{}", self.times, self.now))
        assert tuple(answer) == self.model.cancel(task_id, state)

    @rule(n=st.sampled_from([1, 2, 100]))
    def sweep(self, n: int) -> None:
        answer = self._run(sweep_call(n, now_ms=self.now))
        assert (answer.again, answer.removed) == ((), ())
        assert set(answer.overdue) == self.model.sweep(n, self.now)

    @rule(ms=st.sampled_from([1, 1_000, 7_999, 8_001, 20_000, 60_000]))
    def wait(self, ms: int) -> None:
        self.now += ms

    @invariant()
    def each_task_is_what_the_model_says(self) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for task_id in self.model.tasks:
            pipeline.hmget(f"agent:task:{task_id}", "state", "epoch", "owner", "crashes", "failures", "cancel")
        pipeline.zrange("agent:open", 0, -1)
        pipeline.hgetall("agent:in_flight")
        *stored, open_ids, in_flight = pipeline.execute()
        for task, (state, epoch, owner, crashes, failures, cancel) in zip(
            self.model.tasks.values(), stored, strict=True
        ):
            assert (state.decode(), int(epoch)) == (task.state, task.epoch)
            assert (int(crashes or 0), int(failures or 0)) == (task.crashes, task.failures)
            assert bool(cancel) == task.is_cancelled
            assert task.state is not State.RUNNING or owner.decode() == task.owner
        assert {id_.decode() for id_ in open_ids} == self.model.open_ids()
        users = {task.user for task in self.model.tasks.values()}
        counts = {user: self.model.in_flight(user) for user in users}
        assert {user.decode(): int(n) for user, n in in_flight.items()} == {user: n for user, n in counts.items() if n}

    @invariant()
    def each_waiting_task_is_in_the_set_of_what_it_waits_for(self) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.zrange("agent:delayed", 0, -1, withscores=True)
        pipeline.zrange("agent:waits", 0, -1, withscores=True)
        pipeline.hgetall("agent:wait_limits")
        for thing in THINGS:
            pipeline.zrange(f"agent:wait:{thing}", 0, -1, withscores=True)
        delayed, marks, limits, *sets = pipeline.execute()
        tasks = [(id_, task) for id_, task in self.model.tasks.items() if task.is_delayed]
        assert {id_.decode(): at for id_, at in delayed} == {id_: task.latest_at for id_, task in tasks}
        for thing, stored in zip(THINGS, sets, strict=True):
            expected = {id_: task.earliest_at for id_, task in tasks if task.is_in_set and task.thing == thing}
            assert {id_.decode(): at for id_, at in stored} == expected
        assert {thing.decode(): at for thing, at in marks} == {one: at for one, (at, _) in self.model.marks.items()}
        assert {thing.decode(): int(n) for thing, n in limits.items()} == {
            one: limit for one, (_, limit) in self.model.marks.items() if limit
        }

    @invariant()
    def each_worker_is_marked_as_the_owner_of_what_it_runs(self) -> None:
        for worker in WORKERS:
            own = {id_.decode() for id_ in self.redis.smembers(f"agent:own:{worker}")}
            assert own == {id_ for id_, task in self.model.tasks.items() if self.model.runs(task, worker)}

    @invariant()
    def each_user_and_tenant_is_counted_by_the_ids_that_lie_on_a_queue(self) -> None:
        for queue in QUEUES + SIDE_QUEUES:
            users: Counter[bytes] = Counter()
            for id_ in set(self.redis.lrange(f"rq:queue:{queue}", 0, -1)):
                place, home, user = self.redis.hmget(f"agent:task:{id_.decode()}", "place", "queue", "user")
                if place == b"queue" and home == queue.encode():
                    users[user] += 1
            assert users == {user: int(n) for user, n in self.redis.hgetall(f"agent:runnable:{queue}").items()}
            tenants = Counter(user.partition(b"--")[0] for user in users.elements())
            turns = self.redis.hgetall(f"agent:tenant_turns:{queue}").items()
            assert tenants == {tenant: int(n) for tenant, n in turns if not tenant.endswith(b"!")}

    @invariant()
    def each_tenant_is_charged_for_its_open_tasks_and_what_is_kept(self) -> None:
        held = {
            tenant.decode(): bytes_ for tenant, bytes_ in self.redis.zrange("agent:tenants", 0, -1, withscores=True)
        }
        for tenant in (DEFAULT_TENANT, "acme"):
            charged = self.redis.zrange(f"agent:tenant_open:{tenant}", 0, -1, withscores=True)
            open_ids = {id_ for id_ in self.model.open_ids() if (id_.startswith("acme--")) == (tenant == "acme")}
            assert {id_.decode() for id_, _ in charged} == open_ids
            kept = sum(map(int, self.redis.hvals(f"agent:tenant_kept:{tenant}")))
            assert held.get(tenant, 0) == sum(bytes_ for _, bytes_ in charged) + kept

    @invariant()
    def each_tenant_with_users_in_line_has_an_id_on_the_queue(self) -> None:
        for queue in QUEUES + SIDE_QUEUES:
            for tenant in (DEFAULT_TENANT, "acme"):
                line = self.redis.zrange(f"agent:tenant_line:{queue}:{tenant}", 0, -1)
                assert not line or self.redis.hexists(f"agent:tenant_turns:{queue}", tenant)
                for user in line:
                    assert self.redis.exists(f"agent:waiting:{queue}:{user.decode()}")

    @invariant()
    def each_waiting_task_will_be_called(self) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for id_ in self.model.open_ids():
            pipeline.hmget(f"agent:task:{id_}", "place", "queue", "user")
        found = {(queue.decode(), user.decode()) for place, queue, user in pipeline.execute() if place == b"waiting"}
        for queue, user in found:
            pipeline.hexists(f"agent:runnable:{queue}", user)
            pipeline.zrank(f"agent:tenant_line:{queue}:{user.partition('--')[0]}", user)
            pipeline.sismember(f"agent:capped:{user}", queue)
        marks = pipeline.execute()
        for on_queue, in_line, is_capped in zip(*[iter(marks)] * 3, strict=True):
            assert on_queue or in_line is not None or is_capped

    def teardown(self) -> None:
        """Nothing is left behind: whatever happened before, every open task can be claimed and finished."""
        if not hasattr(self, "model"):
            return
        self.now += 60_000
        for _ in range(3 * len(IDS)):
            self.now += 6_000  # a refused thing lets one task go in this time
            for worker in WORKERS:
                self.join(worker)
            self.reap()
            for worker in WORKERS:
                self.join(worker)
                self.claim(worker, 20)  # which also clears away what ended while it waited
            for worker, one in self.claims:
                if self.model.finish(one.id, one.epoch, worker, State.SUCCESS) is Finished.WRITTEN:
                    self._run(finish_call(one, worker, State.SUCCESS, b"{}", self.times, now_ms=self.now))
            if not self.model.open_ids():
                break
        assert not self.model.open_ids(), "some task is stuck"
        left = {key.decode().split(":")[1] for key in self.redis.keys("agent:*")}
        kept_while_used = {"thread", "capped", "waiting", "own", "in_flight", "delayed", "wait", "open"}
        assert not left & {*kept_while_used, "runnable", "tenant_turns", "tenant_line", "tenant_open"}

    def _renewal(self, worker: str, *, join: bool) -> Call[Any]:
        return renew_call(worker, LEASE_MS, QUEUES, dict.fromkeys(GRAPHS[worker], "{}"), join=join, now_ms=self.now)

    def _some_claim(self, data: st.DataObject) -> tuple[str, Claimed]:
        claims_ago = data.draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3, 8]), label="claims ago")
        return self.claims[max(-1 - claims_ago, -len(self.claims))]

    def _run(self, call: Call[Any]) -> Any:
        return run_sync(self.redis, call._replace(script=self.scripts.get(call.script.name, call.script)))

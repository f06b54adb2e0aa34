"""The ways to keep state, as tests see them: a checkpointer, what is kept of threads, and the passing of time."""

from functools import partial
from typing import Any

from langgraph_rq.worker.state.postgres.checkpoints import PostgresSaver
from langgraph_rq.worker.state.postgres.schema import sweep
from langgraph_rq.worker.state.redis_stack.checkpoints import Checkpointer
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys

SECRET = "a-secret-of-more-than-32-characters"
EXACT = ("redis", "redis encrypted", "postgres", "postgres encrypted")
"""Those that remove what a task wrote, and nothing else."""
ALL = (*EXACT, "redis-stack")
STATE = "agent:thread_state:t"
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
SOON_S = 60


class Redis:
    """A thread on plain Redis."""

    kind: Any = ThreadSaver

    def __init__(self, client, **options):
        self.client = client
        self.options = options
        self.saver = self.open()

    @property
    def steps(self):
        """Where each step of the checkpointer passes: an object and the name of its method."""
        return self.saver._threads, "_run"

    def open(self, **options):
        """Open a further checkpointer: another worker's, as it were."""
        return self.kind(self.client, **self.options, **options)

    async def kept(self):
        found = await self.client.hgetall(STATE)
        return {field: value for field, value in found.items() if field != b"t"}

    async def left_for_ever(self):
        """Return what never expires."""
        return [key for key in await self.client.keys() if await self.client.ttl(key) < 0]

    async def shorten(self):
        """Let all that is kept now have a minute left, unless it is renewed."""
        for key in await self.client.keys():
            await self.client.expire(key, SOON_S)

    async def let_pass(self):
        """Let a minute pass."""
        for key in await self.client.keys():
            if await self.client.ttl(key) <= SOON_S:
                await self.client.delete(key)


class RedisStack(Redis):
    """Threads on a Redis with modules."""

    kind = Checkpointer

    async def shorten(self):
        await super().shorten()
        seconds, _ = await self.client.time()
        async for key in self.client.scan_iter("agent:checkpoints:*"):
            members = await self.client.zrange(key, 0, -1)
            await self.client.zadd(key, dict.fromkeys(members, (seconds + SOON_S) * 1000))


class Postgres:
    """Threads in Postgres."""

    def __init__(self, postgres, **options):
        self.postgres = postgres
        self.options = options
        self.saver = self.open()

    @property
    def steps(self):
        return self.postgres, "rows"

    def open(self, **options):
        return PostgresSaver(self.postgres, **self.options, **options)

    async def kept(self):
        tables = [await self.postgres.rows(f"SELECT * FROM {table}", {}) for table in TABLES]
        return [sorted(repr(_of_the_library(row)) for row in rows) for rows in tables]

    async def left_for_ever(self):
        names = " UNION ".join(f"SELECT thread_id FROM {table}" for table in TABLES)
        return await self.postgres.rows(f"{names} EXCEPT SELECT thread_id FROM lgrq_threads", {})

    async def shorten(self):
        await self.postgres.rows(f"UPDATE lgrq_threads SET expires_at = now() + interval '{SOON_S} s'", {})

    async def let_pass(self):
        await self.postgres.rows(f"UPDATE lgrq_threads SET expires_at = expires_at - interval '{SOON_S} s'", {})
        await sweep(self.postgres)


def _of_the_library(row):
    return {name: value for name, value in row.items() if not name.startswith("lgrq_replaced")}


_KINDS = {"redis": (Redis, "plain"), "postgres": (Postgres, "postgres"), "redis-stack": (RedisStack, "stack")}


def of(request):
    """Return what opens the backend that a fixture's parameter names, with options of its checkpointer."""
    name, _, encrypted = request.param.partition(" ")
    kind, fixture = _KINDS[name]
    serializer = StateSerializer(StateKeys.parse(SECRET if encrypted else None))
    return partial(kind, request.getfixturevalue(fixture), serializer=serializer)

"""Load the .lua files beside their Python owners and call them from sync and async clients alike.

A verb of the queue, the breaker or the budget is a pure function that returns a `Call`: which script, with which keys
and arguments, and how to read its reply. The logic exists once; only the awaiting differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Generic, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline
from redis.exceptions import NoScriptError

T = TypeVar("T")
P = TypeVar("P", Pipeline, AsyncPipeline)
Argument = str | int | float | bytes


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the SHA-1 under which Redis caches it."""

    name: str
    source: str
    sha: str


@cache
def load_script(name: str, package: str = "shared") -> Script:
    """Read `<package>/<name>.lua` from the installed package."""
    return make_script(name, files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8"))


def make_script(name: str, source: str) -> Script:
    """Give `source` the name under which Redis caches it."""
    return Script(name, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One script call: `decode` turns Redis' raw reply into the value that the caller gets."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]
    decode: Callable[[Any], T]

    @property
    def evalsha(self) -> tuple[Argument, ...]:
        """The arguments of EVALSHA: sha, number of keys, keys, arguments."""
        return (self.script.sha, len(self.keys), *self.keys, *self.args)


async def run(redis: AsyncRedis, call: Call[T]) -> T:
    """Run `call` in one round trip; a server that forgot the script is taught it again."""
    try:
        reply = await redis.execute_command("EVALSHA", *call.evalsha)
    except NoScriptError:
        await redis.script_load(call.script.source)
        reply = await redis.execute_command("EVALSHA", *call.evalsha)
    return call.decode(reply)


def run_sync(redis: Redis, call: Call[T]) -> T:
    """Run `call` as `run` does, from synchronous code."""
    try:
        reply = redis.execute_command("EVALSHA", *call.evalsha)
    except NoScriptError:
        redis.script_load(call.script.source)
        reply = redis.execute_command("EVALSHA", *call.evalsha)
    return call.decode(reply)


async def run_many(redis: AsyncRedis, calls: Sequence[Call[Any]]) -> list[Any]:
    """Run several calls in one round trip, in order; each answers its own value or the exception it raised.

    Not a transaction: other clients' commands may run in between. Raises only what breaks the connection itself.
    """
    replies = await _pipeline(redis.pipeline(transaction=False), calls).execute(raise_on_error=False)
    missed = _missed(replies)
    if missed:
        for script in {calls[i].script for i in missed}:
            await redis.script_load(script.source)
        again = [calls[i] for i in missed]
        more = await _pipeline(redis.pipeline(transaction=False), again).execute(raise_on_error=False)
        _fill(replies, missed, more)
    return _decode(calls, replies)


def run_many_sync(redis: Redis, calls: Sequence[Call[Any]]) -> list[Any]:
    """Run several calls as `run_many` does, from synchronous code."""
    replies = _pipeline(redis.pipeline(transaction=False), calls).execute(raise_on_error=False)
    missed = _missed(replies)
    if missed:
        for script in {calls[i].script for i in missed}:
            redis.script_load(script.source)
        again = [calls[i] for i in missed]
        _fill(replies, missed, _pipeline(redis.pipeline(transaction=False), again).execute(raise_on_error=False))
    return _decode(calls, replies)


def _pipeline(pipeline: P, calls: Sequence[Call[Any]]) -> P:
    for call in calls:
        pipeline.execute_command("EVALSHA", *call.evalsha)
    return pipeline


def _missed(replies: Sequence[Any]) -> list[int]:
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def _fill(replies: list[Any], missed: Sequence[int], more: Sequence[Any]) -> None:
    for i, reply in zip(missed, more, strict=True):
        replies[i] = reply


def _decode(calls: Sequence[Call[Any]], replies: Sequence[Any]) -> list[Any]:
    pairs = zip(calls, replies, strict=True)
    return [reply if isinstance(reply, Exception) else call.decode(reply) for call, reply in pairs]

"""Load .lua files and call them from sync and async clients alike.

A verb of the queue, the breaker or the budget is a pure function that returns a `Call`: which script, with which keys
and arguments, and how to read its reply. The logic exists once; only the awaiting differs.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Generic, NamedTuple, TypeVar, cast

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError

from langgraph_rq.shared.connections.kept_connection import Argument, Command, KeptConnection

T = TypeVar("T")

PRELUDE = "shared/connections/repair"
"""A file that is put before every script."""

_USES = re.compile(r"^-- Uses ([\w/]+):(.*(?:\n--   .*)*)", re.MULTILINE)
_CALLS = re.compile(r"^-- Calls ([\w/]+)", re.MULTILINE)
_NAME = re.compile(r"\w+")
_FUNCTION = re.compile(r"^local function (\w+)\([^)]*\)\n.*?^end\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_LITERAL = r"""-?\d+(?:\.\d+)?(?: \* \d+)*|'[^'\\\n]*'|"[^"\\\n]*\""""
_CONSTANTS = re.compile(
    rf"^local ([A-Z][A-Z_]*(?:, [A-Z][A-Z_]*)*) = ((?:{_LITERAL})(?:, (?:{_LITERAL}))*)(?: --.*)?$", re.MULTILINE
)
_WORD = re.compile(r"""--.*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|(?<![\w.])[A-Z][A-Z_]*\b""")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the SHA-1 under which Redis caches it."""

    name: str
    source: str
    sha: str
    command: str
    """EVALSHA; of a script that writes nothing the variant that a user with read access may call too."""


@cache
def load_script(name: str) -> Script:
    """Read a script of the installed package by its path without the suffix, such as `shared/breaker/allow`.

    Two kinds of lines in its header name other files, which are put before it:
        -- Uses shared/connections/clock: clock   these names of a file that is no script, once for all that use it
        -- Calls shared/breaker/read              another script, as a function `read(KEYS, ARGV)`
    Flags count in the first line of the script itself only; before all stands `PRELUDE`.

    Lua makes all functions anew with each call of a script, each the slower the more locals of the function around it
    are referred to. So what the script does not need of the files is left out, and each file is a function of its own,
    which returns what others use of it. That is a value: a number that changes belongs into a table. A constant like
    `local DAY_MS = 86400000` is written where it is used.
    """
    flags, body = _read(name)
    names_of: dict[str, set[str]] = {}
    _collect(body, names_of)
    sources = {file: _read(file)[1] for file in names_of}
    main = f"return (function()\n{_functions(body)}{body}end)()\n"
    spare = _spare(sources.values(), main)
    used = ""
    for file, source in sources.items():
        rest = _FUNCTION.sub(lambda found: "" if found[1] in spare else found[0], source)
        if names := sorted(names_of[file] - spare - _constants(file).keys()):
            used += _returning(_functions(source) + rest, names)
    return make_script(name, flags + _returning(_read(PRELUDE)[1], ["redis"]) + used + main)


def _spare(files: Iterable[str], main: str) -> frozenset[str]:
    """Return the functions of `files` that neither `main` nor what it needs of the files names."""
    functions = defaultdict[str, str](str)
    left = {_COMMENT.sub("", main)}
    for file in files:
        code = _COMMENT.sub("", file)
        for found in _FUNCTION.finditer(code):
            functions[found[1]] += found[0]
        left |= {_FUNCTION.sub("", code), _functions(file)}
    needed = set[str]()
    while left:
        named = functions.keys() & {word for text in left for word in _NAME.findall(text)}
        left = {functions[name] for name in named - needed}
        needed |= named
    return frozenset(functions.keys() - needed)


@cache
def _read(name: str) -> tuple[str, str]:
    """Return the line of flags, if there is one, and the rest of a file, with constants where their names stand."""
    flags, body = _open(name)
    constants = dict(_constants(name))
    for file, some in _USES.findall(body):
        constants |= {name: value for name, value in _constants(file).items() if name in _NAME.findall(some)}
    return flags, _WORD.sub(lambda found: constants.get(found[0], found[0]), _CONSTANTS.sub("", body))


@cache
def _constants(file: str) -> Mapping[str, str]:
    """Return the constants of a file, as its lines `local NAME = value` have them."""
    constants = dict[str, str]()
    for names, values in _CONSTANTS.findall(_open(file)[1]):
        # In brackets, so that `-NAME` and `NAME:find()` stay what they are.
        constants |= zip(names.split(", "), (f"({value})" for value in re.findall(_LITERAL, values)), strict=True)
    return constants


@cache
def _open(name: str) -> tuple[str, str]:
    source = files("langgraph_rq").joinpath(f"{name}.lua").read_text(encoding="utf-8")
    flags, end_of_line, body = source.partition("\n")
    return (flags + end_of_line, body) if flags.startswith("#!") else ("", source)


def _collect(body: str, names: dict[str, set[str]]) -> None:
    """Add the files that `body` and the scripts that it calls use, with the names, each behind what it uses itself."""
    for file in _CALLS.findall(body):
        _collect(_read(file)[1], names)
    for file, some in _USES.findall(body):
        if file not in names:
            _collect(_read(file)[1], names)
        names.setdefault(file, set()).update(_NAME.findall(some))


def _returning(body: str, names: Sequence[str]) -> str:
    """Return `body` as a function that is called at once, and the names that it returns as locals."""
    listed = ", ".join(names)
    return f"local {listed} = (function()\n{body}\nreturn {listed}\nend)()\n"


def _functions(body: str) -> str:
    """Return the scripts that `body` calls, as functions."""
    called = ((name, _read(name)[1]) for name in _CALLS.findall(body))
    return "".join(
        f"local function {name.rpartition('/')[2]}(KEYS, ARGV)\n{_functions(other)}{other}end\n"
        for name, other in called
    )


def make_script(name: str, source: str) -> Script:
    """Give `source` the name under which Redis caches it."""
    is_read_only = "no-writes" in source.partition("\n")[0]
    sha = sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, sha, "EVALSHA_RO" if is_read_only else "EVALSHA")


class Call(NamedTuple, Generic[T]):
    """One script call: `decode` turns Redis' raw reply into the value that the caller gets."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]
    decode: Callable[[Any], T]

    @property
    def command(self) -> Command:
        """The command as it is sent: EVALSHA or EVALSHA_RO, sha, number of keys, keys, arguments."""
        script, keys = self.script, self.keys
        return (script.command, script.sha, len(keys), *keys, *self.args)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas must have what was written before it counts, and how long (ms) that is waited for."""

    count: int = 0
    timeout_ms: int = 1_000


PRIMARY_ONLY = Replicas()
_REPLICATED = "agent:replicated"
"""A channel without subscribers. WAIT covers only writes of its own connection, and a script whose work was done,
perhaps over a connection that broke, writes nothing: so a message is published that must reach the replicas."""


class ReplicasMissingError(RedisConnectionError):
    """What was written may be lost in a failover; everything that was run may safely be run again."""


class ScriptNotLoadedError(RedisConnectionError):
    """Redis lacks a script, and its user may not load it, as producers may not: an outage until a worker comes.

    The message goes on after the words "Redis at <url>".
    """

    def __init__(self, script: str) -> None:
        super().__init__(
            f"lacks the script {script}, which this user may not load: start a worker of this version, or run "
            "`langgraph-producer load-scripts` with the REDIS_URL of a worker"
        )


async def run(redis: AsyncRedis | KeptConnection, call: Call[T]) -> T:
    """Run `call` in one round trip, or two when the server has to load the script first.

    Raises `ScriptNotLoadedError` when it may not, as all functions here do.
    """
    (reply,) = await _exchange(redis, [call.command])
    if isinstance(reply, NoScriptError):
        (value,) = await _run_all(redis, [call])
        if isinstance(value, Exception):
            raise value
        return cast("T", value)
    if isinstance(reply, Exception):
        raise reply
    return call.decode(reply)


def run_sync(redis: Redis, call: Call[T]) -> T:
    """Run `call` as `run` does, from synchronous code."""
    try:
        reply = redis.execute_command(*call.command)
    except NoScriptError:
        _load_sync(redis, [call.script])
        reply = redis.execute_command(*call.command)
    return call.decode(reply)


async def run_many(
    redis: AsyncRedis | KeptConnection, calls: Sequence[Call[Any]], replicas: Replicas = PRIMARY_ONLY
) -> list[Any]:
    """Run several calls in one round trip, in order; each answers its own value or the exception it raised.

    Not a transaction: other clients' commands may run in between. Raises only what breaks the connection itself,
    `ReplicasMissingError` when fewer than `replicas` have what was written, and `ScriptNotLoadedError`, when the calls
    of other scripts may have run.
    """
    replies = await _run_all(redis, calls, replicas)
    for reply in replies:
        if isinstance(reply, ScriptNotLoadedError):
            raise reply
    return replies


async def run_each(redis: AsyncRedis | KeptConnection, calls: Sequence[Call[Any]]) -> list[Any]:
    """Run calls of several callers as `run_many` does; a script that is missing is the error of its calls alone."""
    return await _run_all(redis, calls)


async def _run_all(
    redis: AsyncRedis | KeptConnection, calls: Sequence[Call[Any]], replicas: Replicas = PRIMARY_ONLY
) -> list[Any]:
    replies = _replicated(await _exchange(redis, _commands(calls, replicas)), replicas)
    missed = _missed(replies)
    if missed:
        # In one round trip, so that no SCRIPT FLUSH comes in between.
        scripts = list({calls[i].script for i in missed})
        loads: list[Command] = [("SCRIPT", "LOAD", script.source) for script in scripts]
        again = _commands([calls[i] for i in missed], replicas)
        both = await _exchange(redis, loads + again)
        refused = {s.sha for s, reply in zip(scripts, both, strict=False) if isinstance(reply, NoPermissionError)}
        _fill(replies, missed, _replicated(both[len(loads) :], replicas))
        for i in missed:
            if calls[i].script.sha in refused:
                replies[i] = ScriptNotLoadedError(calls[i].script.name)
    return _decode(calls, replies)


def _load_sync(redis: Redis, scripts: Iterable[Script]) -> None:
    for script in scripts:
        try:
            redis.script_load(script.source)
        except NoPermissionError:
            raise ScriptNotLoadedError(script.name) from None


async def _exchange(redis: AsyncRedis | KeptConnection, commands: Sequence[Command]) -> list[Any]:
    if isinstance(redis, KeptConnection):
        return await redis.exchange(commands)
    connection = KeptConnection(redis)
    try:
        return await connection.exchange(commands)
    finally:
        await connection.release()


def run_many_sync(redis: Redis, calls: Sequence[Call[Any]], replicas: Replicas = PRIMARY_ONLY) -> list[Any]:
    """Run several calls as `run_many` does, from synchronous code."""
    replies = _replicated(_exchange_sync(redis, _commands(calls, replicas)), replicas)
    missed = _missed(replies)
    if missed:
        _load_sync(redis, {calls[i].script for i in missed})
        again = _commands([calls[i] for i in missed], replicas)
        _fill(replies, missed, _replicated(_exchange_sync(redis, again), replicas))
    return _decode(calls, replies)


def _exchange_sync(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return pipeline.execute(raise_on_error=False)


def _commands(calls: Sequence[Call[Any]], replicas: Replicas) -> list[Command]:
    commands: list[Command] = [call.command for call in calls]
    if replicas.count:
        commands += [("PUBLISH", _REPLICATED, ""), ("WAIT", replicas.count, replicas.timeout_ms)]
    return commands


def _replicated(replies: list[Any], replicas: Replicas) -> list[Any]:
    if not replicas.count:
        return replies
    *replies, published, count = replies
    for reply in (published, count):
        if isinstance(reply, Exception):
            raise reply
    if count < replicas.count:
        raise ReplicasMissingError(
            f"expected {replicas.count} replicas to have it within {replicas.timeout_ms} ms, got: {count}"
        )
    return replies


def _missed(replies: Sequence[Any]) -> list[int]:
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def _fill(replies: list[Any], missed: Sequence[int], more: Sequence[Any]) -> None:
    for i, reply in zip(missed, more, strict=True):
        replies[i] = reply


def _decode(calls: Sequence[Call[Any]], replies: Sequence[Any]) -> list[Any]:
    pairs = zip(calls, replies, strict=True)
    return [reply if isinstance(reply, Exception) else _decode_one(call, reply) for call, reply in pairs]


def _decode_one(call: Call[T], reply: Any) -> T | Exception:
    """Return the error instead of raising it: the other calls have run, and have callers of their own."""
    try:
        return call.decode(reply)
    except Exception as error:
        return error

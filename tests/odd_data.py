"""Data as other programs may leave them in Redis: each type at each key that docs/redis-keys.md lists."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from redis import Redis

from tests.installation import ROOT

PLANT: Mapping[str, Callable[[Redis, str], object]] = {
    "string": lambda redis, key: redis.set(key, "garbage"),
    "bytes": lambda redis, key: redis.set(key, b"\xff\x00"),
    "list": lambda redis, key: redis.rpush(key, "garbage", b"\xff"),
    "set": lambda redis, key: redis.sadd(key, "garbage", b"\xff"),
    "zset": lambda redis, key: redis.zadd(key, {"garbage": 1, b"\xff": float("-inf"), "later": float("inf")}),
    "hash": lambda redis, key: redis.hset(key, mapping={"garbage": "x", b"\xff": b"\xff", "default--": "x"}),
    "stream": lambda redis, key: redis.xadd(key, {"garbage": "x"}),
}

_NAMES = {
    "queue": "agent_tasks",
    "tenant": "default",
    "user": "default--",
    "id": "planted",
    "task": "planted",
    "thread": "planted",
}
_OWN_LANGUAGE = {"rq:suspended"}
"""A string there holds all workers back, which is what it is for."""


def documented_keys(**names: str) -> dict[str, str]:
    """Return the keys of the docs and their types, with the given names in place of those in <brackets>."""
    names = {**_NAMES, "day": datetime.now(UTC).strftime("%Y%m%d"), **names}
    page = (ROOT / "docs/redis-keys.md").read_text()
    rows = re.findall(r"^\| (`(?:agent|rq):[^|]*) \| (\w*) ?\|", page, re.MULTILINE)
    return {
        re.sub(r"<(\w+)>", lambda found: names.get(found[1], "planted"), key): kind
        for cell, kind in rows
        for key in re.findall(r"`([^`]*)`", cell)
        if key not in _OWN_LANGUAGE
    }


def plant(redis: Redis, key: str, kind: str) -> None:
    """Replace whatever is at `key`, at once: workers write there too."""
    with redis.pipeline() as together:
        together.delete(key)
        PLANT[kind](together, key)
        together.execute()

"""Put the scripts of this version into Redis' cache, where producers, who may not load any, find them by their hash.

The cache is empty after a restart and after a failover, and is neither persisted nor replicated. So a worker checks it
at its start and after each renewal of its lease; `langgraph-producer load-scripts` does the same once.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from redis import Redis

from langgraph_rq.shared.connections.scripts import PRELUDE, Script, load_script

_FOLDERS = ("shared", "worker", "producer")
_SUFFIX = ".lua"
_USES = re.compile(r"^-- Uses ([\w/]+)", re.MULTILINE)


@cache
def every_script() -> tuple[Script, ...]:
    """Read all scripts of the installed package; files that other scripts only use are none."""
    root = files("langgraph_rq")
    texts = {name: text for folder in _FOLDERS for name, text in _walk(root.joinpath(folder), folder)}
    used = {name for text in texts.values() for name in _USES.findall(text)}
    return tuple(load_script(name) for name in sorted(texts.keys() - used - {PRELUDE}))


def load_missing(redis: Redis) -> int:
    """Load the scripts that Redis lacks; return how many. One small round trip when there are none."""
    scripts = every_script()
    is_known = redis.script_exists(*(script.sha for script in scripts))
    missing = [script for script, known in zip(scripts, is_known, strict=True) if not known]
    if missing:
        pipeline = redis.pipeline(transaction=False)
        for script in missing:
            pipeline.script_load(script.source)
        pipeline.execute()
    return len(missing)


def _walk(folder: Traversable, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name, as `load_script` takes it, and the text of each Lua file."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(_SUFFIX):
            yield f"{name}/{entry.name.removesuffix(_SUFFIX)}", entry.read_text(encoding="utf-8")

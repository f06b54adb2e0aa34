"""A Redis server whose clock is wrong: Debian's libfaketime shifts what it reads, so TIME, TTLs and ids of streams."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from redis import Redis

_LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
_SHARED_MEMORY = Path("/dev/shm")
MISSING = _LIBRARY is None
"""Whether clocks cannot be shifted here: then all servers have the right time."""
needs_faketime = pytest.mark.skipif(
    MISSING, reason="libfaketime is not installed (Debian: apt-get install libfaketime)"
)


@contextmanager
def shifted(by_s: float) -> Iterator[None]:
    """Shift the clock of servers that are started in the block. Their monotonic clock, by which they poll, is right."""
    with _preloaded(FAKETIME=f"{by_s:+.3f}s"):
        yield


@contextmanager
def settable(file: Path) -> Iterator[None]:
    """Let `set_clock` shift the clock of servers that are started in the block, while they run."""
    set_clock(file, 0.0)
    with _preloaded(FAKETIME_TIMESTAMP_FILE=str(file), FAKETIME_NO_CACHE="1"):
        yield


def set_clock(file: Path, by_s: float) -> None:
    """Shift the clock of the servers that read this file."""
    new = file.with_suffix(".new")
    new.write_text(f"{by_s:+.3f}s\n")
    new.replace(file)


@contextmanager
def _preloaded(**settings: str) -> Iterator[None]:
    fixed = {"LD_PRELOAD": str(_LIBRARY), "DONT_FAKE_MONOTONIC": "1"}
    before = set(_SHARED_MEMORY.glob("*faketime*"))
    try:
        with patch.dict(os.environ, {**fixed, **settings}) if _LIBRARY else patch.dict(os.environ):
            yield
    finally:  # processes that are killed leave it behind, and running ones do not need its name
        for name in set(_SHARED_MEMORY.glob("*faketime*")) - before:
            name.unlink(missing_ok=True)


def seconds_of(server: Redis) -> float:
    """Read a server's clock."""
    seconds, microseconds = server.time()
    return seconds + microseconds / 1e6

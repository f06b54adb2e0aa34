"""What stands for ids of tasks and runs in the records of a thread."""

from functools import lru_cache
from hashlib import sha256

RUN_BYTES = 6
"""Of the mark of a run, between the length of a write and the write."""


def task_name(task_id: str) -> str:
    """Return what stands for a task in the headers of its checkpoints; empty for none."""
    return run_mark(task_id).hex() if task_id else ""


@lru_cache(maxsize=1_024)
def run_mark(run: str) -> bytes:
    """Return what stands for a run, or a task, before its writes."""
    return sha256(run.encode("utf-8", "surrogatepass")).digest()[:RUN_BYTES] if run else bytes(RUN_BYTES)


def short_id(task_id: str) -> str | bytes:
    """Return the bytes of a UUID, or of other hexadecimal digits with its dashes; else the text."""
    try:
        short = bytes.fromhex(task_id.replace("-", ""))
    except ValueError:
        return task_id
    return short if long_id(short) == task_id else task_id


def long_id(short: bytes) -> str:
    """Undo `short_id`."""
    digits = short.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

"""The graphs of the suite for a worker that is killed in the middle: the run of a thread stands still there, once.

A test writes into a file with the name of a thread, in the folder `STANDING`, at which start of a node it stands. The
run that gets there makes the file `<thread>.stands` and waits for ever; a run that finds it goes on. The file `calls`
has a line for each call of a model, a tool or a node, `<thread> <call>`.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from langgraph.config import get_config

from tests.langgraph.bench import CALLS, NodeStarts
from tests.langgraph.suite import CASES

FOLDER = Path(os.environ["STANDING"])


class Standing(NodeStarts):
    """Stands still at the start that is written of a thread."""

    async def started(self, thread: str) -> None:
        at, stands = FOLDER / thread, FOLDER / f"{thread}.stands"
        if at.exists() and not stands.exists():
            self.counts[thread] += 1
            if self.counts[thread] == int(at.read_text()):
                stands.touch()
                await asyncio.Event().wait()


def note(call: str) -> None:
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"{get_config()['configurable']['thread_id']} {call}\n")


CALLS.noted = note
STANDING = Standing()


def __getattr__(name: str) -> Any:
    if name not in CASES:
        raise AttributeError(name)
    return CASES[name].graph.with_config(callbacks=[STANDING])

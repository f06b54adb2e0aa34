"""A loop that stands at a breakpoint, for the tests of what watches it: `python -m tests.programs.debugged_loop`.

Prints `looked` once it was looked at for longer than a loop may be silent, and when the loop goes on, whether it was
stuck.
"""

import asyncio
import threading
import time

from langgraph_rq.worker.fleet import loop_watch

_LOOKS = 4


async def _stop() -> None:
    watch = loop_watch.LoopWatch(asyncio.get_running_loop())
    threading.Thread(target=_look, args=(watch,), daemon=True).start()
    breakpoint()  # noqa: T100 - what is tested
    print(f"stuck: {watch.is_stuck}")  # noqa: T201 - read by the test


def _look(watch: loop_watch.LoopWatch) -> None:
    watch.look()  # asks the loop, which does not answer
    for _ in range(_LOOKS):
        time.sleep(loop_watch.LOOK_S)
        watch.look()
    print("looked", flush=True)  # noqa: T201


loop_watch.STUCK_S = _LOOKS / 2 * loop_watch.LOOK_S
asyncio.run(_stop())

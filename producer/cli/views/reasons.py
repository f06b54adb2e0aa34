"""Write, while a command waits for tasks, what those wait for, each time that it changes."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from langgraph_rq.producer.client.client import Client
from langgraph_rq.shared import terminal
from langgraph_rq.shared.errors import LanggraphRqError

_LOOK_S = 2.0
"""Between two looks. A task that ends within this time is not looked at."""
_LOOKED_AT = 20
"""Tasks per look; of more than these the others' reasons are hardly different."""


@contextmanager
def shown_reasons(client: Client, left: Collection[str], said: Collection[str] = ()) -> Iterator[None]:
    """Write new reasons of tasks that wait, while the block runs.

    Args:
        client: Of any number of threads.
        left: Ids of the tasks that have not ended; the block takes out those that have.
        said: Reasons that were written before.
    """
    is_over = Event()
    thread = Thread(target=_watch, args=(client, left, set(said), is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _watch(client: Client, left: Collection[str], said: Collection[str], is_over: Event) -> None:
    while not is_over.wait(_LOOK_S):
        reasons: dict[str, str] = {}
        for task_id in list(left)[:_LOOKED_AT]:
            if is_over.is_set():
                return
            try:
                reason = client.status(task_id).reason
            except LanggraphRqError:  # it is forgotten, or Redis is away: the wait itself says so
                continue
            if reason:
                reasons.setdefault(reason, task_id)
        for reason, task_id in reasons.items():
            if reason not in said:
                terminal.report(f"task {task_id}: {reason}", "yellow")
        said = reasons

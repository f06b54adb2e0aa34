"""Follow the events of one task, from any place of it to its end."""

from collections.abc import AsyncGenerator

from langgraph_rq.producer.client.reading.lookup import ask_place, read_state
from langgraph_rq.producer.client.reading.recall import recall_state
from langgraph_rq.producer.client.transport.connection import Connection
from langgraph_rq.producer.client.transport.transports import Transport
from langgraph_rq.shared.errors import RedisUnavailableError
from langgraph_rq.shared.queue.events import FORGOTTEN_END, SMALL_PAGE, Event, EventType, Parts, next_page, order
from langgraph_rq.shared.queue.keys import events_key
from langgraph_rq.shared.tasks import State

_QUIET_TIMES = 4
"""A follower checks after so many quiet times that its task still exists."""


class Following:
    """One follower of a task.

    Args:
        connection, transport: To Redis.
        task_id: The task.
        key: Its id in Redis.
    """

    def __init__(self, connection: Connection, transport: Transport, task_id: str, key: str) -> None:
        self._connection = connection
        self._transport = transport
        self._task_id = task_id
        self._key = key

    async def begin(
        self, after: str, quiet_s: float, *, in_parts: bool = False, is_new: bool = False
    ) -> AsyncGenerator[Event | None, None] | None:
        """Yield events after a place, and None whenever nothing has happened for `quiet_s`; None: it is the end.

        With `in_parts` the parts of a long event are yielded one by one: they need not all be in memory at once.

        Raises UnknownTaskError, RedisUnavailableError, before it yields, but not of a task that `is_new`.
        """
        state, last = (State.PENDING, None) if is_new else await self._where()
        return None if _is_over(state, last, after) else self._follow(after, quiet_s, state, last, in_parts=in_parts)

    async def _follow(
        self, after: str, quiet_s: float, state: State, last: str | None, *, in_parts: bool
    ) -> AsyncGenerator[Event | None, None]:
        key, parts = events_key(self._key), Parts()
        entry: Event | None = None
        while not (_is_over(state, last, after) or self._transport.is_ending):
            if state.is_terminal and last is None:
                yield Event(FORGOTTEN_END, EventType.END, f'{{"state":"{state}"}}')
                return
            quiet, is_drained, most = 0, False, SMALL_PAGE
            while quiet < _QUIET_TIMES and not self._transport.is_ending:
                news = await self._transport.news({key: after}, quiet_s, most=most, is_drained=is_drained)
                events = news.get(key, [])
                is_drained, most = len(events) < most, next_page(events)
                quiet = 0 if events else quiet + 1
                if not events:
                    yield None
                for entry in events:
                    event = parts.next(entry) if in_parts else parts.join(entry)
                    if event:
                        yield event
                    after = entry.id
                    if entry.is_last:
                        return
                # A wait may be long, and longer if it is cancelled: it must not hold the page.
                news, events, entry, event = {}, [], None, None
            try:
                state, last = await self._where()
            except RedisUnavailableError:  # a reader that hears nothing would give up
                yield None

    async def _where(self) -> tuple[State, str | None]:
        """Read the task's state and the place of its last event."""
        state, has_job, last = await self._connection.read(lambda pipeline: ask_place(pipeline, self._key))
        if state is None and not has_job:
            return await recall_state(self._connection, self._task_id, self._key), None
        return read_state(self._task_id, state) if state else State.PENDING, last[0][0].decode() if last else None


def _is_over(state: State, last: str | None, after: str) -> bool:
    """Whether the event `after` is the task's end."""
    return state.is_terminal and order(after) >= order(last or FORGOTTEN_END)

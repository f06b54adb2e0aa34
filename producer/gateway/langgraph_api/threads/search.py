"""Searches of threads: by the index of what is at the top of their metadata, and row by row for the rest."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from langgraph_rq.producer.gateway.dependencies import Caller
from langgraph_rq.producer.gateway.langgraph_api.assistants import find
from langgraph_rq.producer.gateway.langgraph_api.objects import Thread, answer_threads, read_threads
from langgraph_rq.producer.gateway.langgraph_api.threads.bodies import CountBody
from langgraph_rq.producer.gateway.problems import ProblemError
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.tasks import thread_of_key
from langgraph_rq.shared.threads.finding import FIRST, find_threads_call
from langgraph_rq.shared.threads.terms import groups_for

_PAGE = 100
"""Rows that are read in one round trip."""
MOST_ROWS = 5_000
"""Rows that one search reads."""
_MOST_PAGES = 500
"""Pages of the index that one search looks through, each of up to 1,000 threads."""


async def find_threads(caller: Caller, body: CountBody, most: int, ids: list[str] | None = None) -> list[Thread]:
    """Collect up to `most` threads that match, the last used first.

    Those that have what is asked for at the top of their metadata are found among all threads. What else is asked for
    is looked for in the rows of the first 5,000 of them.
    """
    found: dict[str, Thread] = {}
    async with aclosing(_pages(caller, body, ids)) as pages:
        async for page in pages:
            matches = [one for one in page if one and _matches(one, body)]
            if body.values is not None:
                answers = await answer_threads(caller, matches)
                matches = [
                    one for one, answer in zip(matches, answers, strict=True) if contains(answer["values"], body.values)
                ]
            found |= {one.thread_id: one for one in matches}
            if ids is None and len(found) >= most:
                break
    threads = [*found.values()]
    if ids is not None:
        threads.sort(key=lambda one: one.row.updated, reverse=True)
    return threads[:most]


async def _pages(caller: Caller, body: CountBody, ids: list[str] | None) -> AsyncGenerator[list[Thread | None], None]:
    if ids is not None:
        for start in range(0, len(ids), _PAGE):
            yield await read_threads(caller, ids[start : start + _PAGE])
        return
    groups = groups_for(body.metadata, await _graphs(caller, body.metadata)) if body.metadata else []
    after, rows = FIRST, 0
    for _ in range(_MOST_PAGES):
        page = await scripts.run(caller.client.redis, find_threads_call(caller.tenant, groups, after, _PAGE))
        rows += len(page.threads)
        if page.threads:
            yield await read_threads(caller, [thread_of_key(one, caller.tenant) or "" for one in page.threads])
        if page.after is None or rows >= MOST_ROWS:
            return
        after = page.after


async def _graphs(caller: Caller, metadata: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the graphs asked for by the keys that show a thread's graph; None: one that no worker serves."""
    graphs: dict[str, str | None] = {}
    if isinstance(graph := metadata.get("graph_id"), str):
        graphs["graph_id"] = graph
    if isinstance(assistant := metadata.get("assistant_id"), str):
        try:
            graphs["assistant_id"] = (await find(caller, assistant)).graph
        except ProblemError:
            graphs["assistant_id"] = None
    return graphs


def _matches(thread: Thread, body: CountBody) -> bool:
    is_status = body.status in (None, thread.status)
    return is_status and (body.metadata is None or contains(thread.metadata, body.metadata))


def contains(value: Any, part: Any) -> bool:
    """Whether an object has all keys of another one, with values that contain its values."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(name in value and contains(value[name], part[name]) for name in part)
    return bool(value == part)

"""How many bytes a thread takes, by what they are for."""

from typing import Any

from langgraph_rq.worker.state.saver.records import channel_of, split_name
from langgraph_rq.worker.state.saver.thread_scripts import ThreadScripts

_FIELDS = 500
_SECTIONS = {b"c": "checkpoints", b"v": "channel_values", b"w": "pending_writes", b"s": "pending_writes"}


async def measure(threads: ThreadScripts, thread: str) -> dict[str, Any]:
    """Measure a thread, as it is written: without what Redis itself takes for a field, about 40 bytes.

    Returns:
        `total_bytes`, and of `checkpoints`, `channel_values` and `pending_writes` each the `count` and the `bytes`.
        Small values are parts of checkpoints; larger ones, stored once per version, are `channel_values`, with the
        `versions` and the `bytes` of each channel in `by_channel`.
    """
    found: dict[str, dict[str, Any]] = {name: {"count": 0, "bytes": 0} for name in dict.fromkeys(_SECTIONS.values())}
    channels: dict[str, dict[str, int]] = {}
    seen: set[bytes] = set()
    cursor: Any = b"0"
    while True:
        cursor, *sizes = await threads.read("sizes", thread, [cursor, _FIELDS])
        for field, content_bytes in zip(sizes[::2], sizes[1::2], strict=True):
            if field in seen or field[:1] not in _SECTIONS:  # a scan may meet a field twice
                continue
            seen.add(field)
            section, size = found[_SECTIONS[field[:1]]], len(field) + content_bytes
            section["count"] += 1
            section["bytes"] += size
            if field[:1] == b"v":
                channel = channels.setdefault(channel_of(split_name(field[1:])[1]), {"versions": 0, "bytes": 0})
                channel["versions"] += 1
                channel["bytes"] += size
        if int(cursor) == 0:
            break
    found["channel_values"]["by_channel"] = channels
    return {"total_bytes": sum(section["bytes"] for section in found.values()), **found}

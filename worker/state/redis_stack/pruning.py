"""Which checkpoints of a thread are dropped when it is pruned, as `retention` says, and by which calls."""

from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from langgraph.checkpoint.redis.key_registry import CheckpointKeyRegistry
from langgraph.checkpoint.redis.util import to_storage_safe_str

from langgraph_rq.shared.connections.scripts import Call, load_script
from langgraph_rq.worker.state.redis_stack.thread_keys import index_key, part_of
from langgraph_rq.worker.state.saver.reading import place_of
from langgraph_rq.worker.state.saver.records import header_of
from langgraph_rq.worker.state.saver.retention import all_but_newest, plan


async def drops(saver: AsyncRedisSaver, thread: str) -> list[Call[int]]:
    """Return the calls that drop all but the newest checkpoint of each namespace, and what these need."""
    listed = saver.alist({"configurable": {"thread_id": thread}})
    headers = {(place_of(found.config)[1], found.checkpoint["id"]): header_of(found) async for found in listed}
    return [_drop(saver, thread, *place) for place in plan(headers, all_but_newest(headers, keep=1)).places]


def _drop(saver: AsyncRedisSaver, thread: str, namespace: str, checkpoint_id: str) -> Call[int]:
    place = part_of(thread), namespace, checkpoint_id
    keys = [
        index_key(thread),
        saver._make_redis_checkpoint_key(*place),  # noqa: SLF001 - the library has no other
        CheckpointKeyRegistry.make_write_keys_zset_key(*place),
        saver._make_redis_checkpoint_latest_key(*place[:2]),  # noqa: SLF001
    ]
    member = f"{to_storage_safe_str(namespace)}:{checkpoint_id}"
    return Call(load_script("worker/state/redis_stack/drop"), keys, [member], int)

"""Reading of a thread's checkpoints: one, a page of a list, or what delta channels are rebuilt from."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory, PendingWrite, get_checkpoint_id

from langgraph_rq.worker.state.saver.records import Codec, name_of, namespace_prefix, split_name
from langgraph_rq.worker.state.saver.thread_keys import INDEX
from langgraph_rq.worker.state.saver.thread_scripts import ThreadScripts, size_of

_READ_BYTES = 4_000_000
_PAGE = 32
_NAMES = 500
"""The most that one script reads: bytes of checkpoints, checkpoints, and names of them."""


class ThreadReader:
    """Reads threads."""

    def __init__(self, threads: ThreadScripts) -> None:
        self._threads = threads

    async def find(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Read the checkpoint that `config` names, or the newest."""
        thread, namespace = place_of(config)
        checkpoint_id = get_checkpoint_id(config) or ""
        is_newest = not namespace and not checkpoint_id
        if is_newest and (lent := self._threads.lent.take(thread)):
            return lent
        if is_newest and (begun := self._threads.found_at_begin(thread)) is not None:
            return _tuple_of(thread, self._threads.codec(thread), begun[0], None) if begun else None
        return await anext(aiter(self._read(thread, [name_of(namespace, checkpoint_id)])), None)

    async def select(
        self, config: RunnableConfig | None, wanted: Mapping[str, Any], before: RunnableConfig | None
    ) -> AsyncIterator[CheckpointTuple]:
        """Read checkpoints whose metadata has what is `wanted`, newest first; without a config, of all threads."""
        if config is None:
            async for thread in self.threads():
                async for found in self.select(config_of(thread, None), wanted, before):
                    yield found
            return
        async for names in self._pages(config, before):
            async for found in self._read(config["configurable"]["thread_id"], names):
                if all(found.metadata.get(key) == value for key, value in wanted.items()):
                    yield found

    async def threads(self) -> AsyncIterator[str]:
        """List the ids of threads by a scan of all keys."""
        async for key in self._threads.redis.scan_iter(match=f"{INDEX}*", count=_NAMES):
            yield key.decode().removeprefix(INDEX)

    async def history(self, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """Collect what delta channels are rebuilt from; a page of ancestors per round trip."""
        thread, namespace = place_of(config)
        writes: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        target, name = True, name_of(namespace, get_checkpoint_id(config) or "")
        while name and len(seeds) < len(writes):
            wanted, name = name, b""
            async for found in self._read(thread, [wanted], ancestors=_PAGE, channels=frozenset(channels)):
                if not target:
                    _collect(found, writes, seeds)
                target = False
                parent = found.parent_config
                name = name_of(namespace, parent["configurable"]["checkpoint_id"]) if parent else b""
        return {
            channel: {"writes": found[::-1], "seed": seeds[channel]} if channel in seeds else {"writes": found[::-1]}
            for channel, found in writes.items()
        }

    async def names(self, thread: str, prefix: bytes = b"", start: bytes = b"") -> AsyncIterator[list[bytes]]:
        """List names of checkpoints in pages: of a namespace newest first, or of all in the order of the names."""
        while page := await self._threads.read("page", thread, [prefix, start, _NAMES]):
            yield page
            start = page[-1]

    async def _pages(self, config: RunnableConfig, before: RunnableConfig | None) -> AsyncIterator[list[bytes]]:
        """List the names that a config selects."""
        configurable = config["configurable"]
        thread, namespace, wanted = (
            configurable["thread_id"],
            configurable.get("checkpoint_ns"),
            get_checkpoint_id(config),
        )
        last = (before and get_checkpoint_id(before)) or ""
        if namespace is not None and not wanted:
            start = name_of(namespace, last) if last else b""
            async for page in self.names(thread, namespace_prefix(namespace), start):
                yield page
            return
        ids = [(split_name(name)[1], name) async for page in self.names(thread) for name in page]
        selected = [(one, name) for one, name in ids if wanted in {None, one} and (not last or one < last)]
        spaces = [namespace_prefix(namespace)] if namespace is not None else None
        yield [name for _, name in sorted(selected, reverse=True) if spaces is None or name.startswith(spaces[0])]

    async def _read(
        self, thread: str, names: Sequence[bytes], ancestors: int = 0, channels: frozenset[str] | None = None
    ) -> AsyncIterator[CheckpointTuple]:
        codec, at = self._threads.codec(thread), 0
        while at < len(names):
            page = names[at : at + _PAGE]
            found = await self._threads.read("read", thread, [_READ_BYTES, ancestors, "", *page])
            for one in found:
                yield _tuple_of(thread, codec, one, channels)
            # A script that has read enough stops behind the last one that it found.
            is_cut = not ancestors and len(found) < len(page) and sum(size_of(one) for one in found) >= _READ_BYTES
            at += page.index(found[-1][0]) + 1 if is_cut else len(page)


def place_of(config: RunnableConfig) -> tuple[str, str]:
    """Return thread and namespace of a config."""
    configurable = config["configurable"]
    return configurable["thread_id"], configurable.get("checkpoint_ns", "")


def config_of(thread: str, namespace: str | None = "", checkpoint_id: str = "") -> RunnableConfig:
    """Return the config that names a checkpoint, or a thread."""
    place = {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {
        "configurable": {
            key: value for key, value in place.items() if value or (key == "checkpoint_ns" and value is not None)
        }
    }


def _tuple_of(thread: str, codec: Codec, found: Sequence[Any], channels: frozenset[str] | None) -> CheckpointTuple:
    name, record, segments, values = found
    namespace, checkpoint_id = split_name(name)
    checkpoint, metadata, parent = codec.read(checkpoint_id, record, values, channels)
    return CheckpointTuple(
        config_of(thread, namespace, checkpoint_id),
        checkpoint,
        metadata,
        config_of(thread, namespace, parent) if parent else None,
        codec.read_rows(segments),
    )


def _collect(found: CheckpointTuple, writes: dict[str, list[PendingWrite]], seeds: dict[str, Any]) -> None:
    """Add an ancestor: its writes, newest first, and its values, behind which a channel needs no older ones."""
    for write in reversed(found.pending_writes or ()):
        if write[1] in writes and write[1] not in seeds:
            writes[write[1]].append(write)
    values = found.checkpoint["channel_values"]
    seeds.update({channel: values[channel] for channel in writes if channel not in seeds and channel in values})

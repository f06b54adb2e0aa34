"""How threads are written in keys."""

from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig

INDEX = "agent:checkpoints:"


def part_of(thread: str) -> str:
    """Return the part of keys that names a thread."""
    return quote(thread, safe="@+")


def index_key(thread: str) -> str:
    """Return the key of a thread's checkpoints."""
    return INDEX + part_of(thread)


def stored_config(config: RunnableConfig) -> RunnableConfig:
    """Name the thread of a config as keys do."""
    return _with_thread(config, part_of(config["configurable"]["thread_id"]))


def given_config(config: RunnableConfig) -> RunnableConfig:
    """Name the thread of a config as it was given."""
    return _with_thread(config, unquote(config["configurable"]["thread_id"]))


def _with_thread(config: RunnableConfig, thread: str) -> RunnableConfig:
    return {**config, "configurable": {**config["configurable"], "thread_id": thread}}

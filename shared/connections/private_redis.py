"""Where a user's private Redis is: `langgraph-producer dev redis` runs it, and all parts use it without a REDIS_URL."""

import os
from pathlib import Path
from urllib.parse import quote


def private_socket() -> Path:
    """Return the path of its socket, one per user; its data are in the same folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(data)).absolute() / "langgraph-rq" / "redis" / "redis.sock"  # noqa: PTH111 - never raises


def private_url() -> str:
    """Return its URL, for REDIS_URL."""
    return socket_url(private_socket())


def socket_url(path: Path) -> str:
    """Return the URL of a Redis that listens on a unix socket; a folder's name may hold `%`, `#` or `?`."""
    return f"unix://{quote(str(path))}?db=0"

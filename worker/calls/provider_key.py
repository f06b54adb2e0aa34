"""The key of the model API where it comes from a file: it is read again when the file changes.

The key is handed on in the environment, where graphs and SDKs look for it. A guarded model that took its key there
looks again at each call; an unchanged one keeps the key with which its graph made it.
"""

import os
from pathlib import Path
from typing import Any

VARIABLE = "OPENAI_API_KEY"


class KeyFile:
    """The file; exports its key as OPENAI_API_KEY."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None

    def export(self) -> None:
        """Export the key if the file has changed. While it cannot be read or is empty, the last key stays."""
        try:
            about = self._path.stat()
            version = about.st_mtime_ns, about.st_ino
            if version == self._version:
                return
            key = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return
        if key:
            os.environ[VARIABLE], self._version = key, version


def follow_environment(client: Any) -> dict[str, Any]:
    """Return the options with which a client of OpenAI's SDK looks for its key again at each call; else none."""
    key: str | None = getattr(client, "api_key", None)
    if not key or key != os.environ.get(VARIABLE):
        return {}

    def read() -> str:
        return os.environ.get(VARIABLE, key)

    async def read_async() -> str:
        return read()

    return {"api_key": read_async if type(client).__name__.startswith("Async") else read}

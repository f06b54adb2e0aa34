"""What workers say of their graphs: drawings and JSON schemas, which gateways show and no gateway could make itself.

Keys:
    agent:graph_descriptions  hash  graph -> a line of JSON, its times, then the description as compressed JSON; a day
                                    after the last worker that serves any graph
"""

import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

GRAPH_DESCRIPTIONS = "agent:graph_descriptions"
KEPT_S = 86_400

_LONGEST_BYTES = 16_000_000
"""A description that is longer when it is uncompressed is not read."""


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """One graph."""

    drawings: list[dict[str, Any]]
    """As LangGraph's `get_graph(xray).to_json()`: with all subgraphs closed, with one level of them open, and so on."""
    schemas: dict[str, Any]
    """`input_schema`, `output_schema`, `state_schema`, `config_schema`, `context_schema`."""
    subgraphs: dict[str, dict[str, Any]]
    """Path of a subgraph, `child` or `child|inner` -> its schemas."""

    def record(self, now_s: float, before: bytes | None = None) -> bytes:
        """Write what `read` reads; it keeps the times of the record `before` as far as nothing changed."""
        body = zlib.compress(json.dumps([self.drawings, self.schemas, self.subgraphs]).encode(), 6)
        times = {"created_at": now_s, "updated_at": now_s}
        if before is not None and (known := read_times(before)):
            if before.partition(b"\n")[2] == body:
                return before
            times["created_at"] = known[0].timestamp()
        return json.dumps(times).encode() + b"\n" + body

    @classmethod
    def read(cls, record: bytes) -> "GraphDescription | None":
        """Read a record; None: it cannot be read."""
        try:
            unpack = zlib.decompressobj()
            text = unpack.decompress(record.partition(b"\n")[2], _LONGEST_BYTES)
            return cls(*json.loads(text)) if unpack.eof else None
        except (zlib.error, ValueError, TypeError):
            return None


def read_times(record: bytes) -> tuple[datetime, datetime] | None:
    """Return when a graph was first described, and when it last changed; None: it cannot be read."""
    try:
        times = json.loads(record.partition(b"\n")[0])
        return _time(times["created_at"]), _time(times["updated_at"])
    except (ValueError, LookupError, TypeError, OverflowError, OSError):
        return None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

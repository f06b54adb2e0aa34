"""The call log of the offline model server: every call with its outcome and billed tokens.

The memory is bounded. With a file, each call is one JSON line when it starts and one when it ends, unbuffered, so that
the log survives the kill -9 of any process.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic_core import to_json

CAPACITY = 50_000
"""Calls kept in memory, about 1 kB each without prompts."""


@dataclass(slots=True)
class CallRecord:
    """One call.

    Instants are in seconds, by the wall clock and by the machine's monotonic clock, which other processes on the
    machine can compare with their own.

    Args:
        outcome: running; then completed (the whole reply was sent, also an error), cut (the server closed the
            connection), hung, or left (the client disconnected first).
        billed: Whether a provider would bill the tokens: an answer was generated, received or not. A cut stream is
            billed for the half that was sent; errors, hangs and resets are not billed.
    """

    seq: int
    path: str
    model: str
    stream: bool
    fault: str | None
    headers: dict[str, str]
    prompt_sha256: str
    input_tokens: int
    started_at: float
    started_monotonic_s: float
    request_id: str
    prompt: str | None = None
    output_tokens: int = 0
    billed: bool = False
    status: int | None = None
    outcome: str = "running"
    ended_at: float | None = None
    ended_monotonic_s: float | None = None


class CallLog:
    """The newest calls in memory, counters over all of them, and optionally a file.

    Args:
        file: Every call is appended to it as JSON lines. None: memory only.
        keep_prompts: Keep each call's prompt, not only its SHA-256.
        capacity: Calls kept in memory.
    """

    def __init__(self, file: Path | None = None, *, keep_prompts: bool = False, capacity: int = CAPACITY) -> None:
        self._records: deque[CallRecord] = deque(maxlen=capacity)
        self._file = file.open("ab", buffering=0) if file else None
        self._keep_prompts = keep_prompts
        self._seq = 0
        self._evicted_seq = 0
        self._cleared_seq = 0
        self._in_flight = 0
        self._zero()

    def _zero(self) -> None:
        self._calls = 0
        self._max_in_flight = self._in_flight
        self._input_tokens: Counter[str] = Counter()
        self._output_tokens: Counter[str] = Counter()

    def accept(
        self,
        path: str,
        model: str,
        prompt: str,
        input_tokens: int,
        *,
        stream: bool,
        fault: str | None,
        headers: dict[str, str],
        request_id: str,
    ) -> CallRecord:
        """Record the start of a call."""
        self._seq += 1
        self._calls += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        record = CallRecord(
            seq=self._seq,
            path=path,
            model=model,
            stream=stream,
            fault=fault,
            headers=headers,
            prompt_sha256=sha256(prompt.encode()).hexdigest(),
            input_tokens=input_tokens,
            started_at=time.time(),
            started_monotonic_s=time.monotonic(),
            request_id=request_id,
            prompt=prompt if self._keep_prompts else None,
        )
        if len(self._records) == self._records.maxlen:
            self._evicted_seq = self._records[0].seq
        self._records.append(record)
        self._write(record)
        return record

    def end(self, record: CallRecord) -> None:
        """Record the end of a call."""
        self._in_flight -= 1
        record.ended_at = time.time()
        record.ended_monotonic_s = time.monotonic()
        if record.billed:
            self._input_tokens[record.model] += record.input_tokens
            self._output_tokens[record.model] += record.output_tokens
        self._write(record)

    def _write(self, record: CallRecord) -> None:
        if self._file:
            self._file.write(to_json(record) + b"\n")

    def since(self, seq: int) -> dict[str, Any]:
        """List the calls after number `seq`, oldest first; `dropped` counts those no longer in memory."""
        calls = [record for record in self._records if record.seq > seq]
        return {
            "calls": calls,
            "last_seq": self._seq,
            "dropped": max(0, self._evicted_seq - max(seq, self._cleared_seq)),
        }

    def stats(self) -> dict[str, Any]:
        """Return the number of calls, in flight now and at most, and billed tokens by model, since the last `clear`."""
        return {
            "calls": self._calls,
            "in_flight": self._in_flight,
            "max_in_flight": self._max_in_flight,
            "input_tokens": self._input_tokens,
            "output_tokens": self._output_tokens,
        }

    def clear(self) -> None:
        """Drop the calls and reset the counters, but not sequence numbers and calls in flight."""
        self._records.clear()
        self._cleared_seq = self._seq
        self._zero()

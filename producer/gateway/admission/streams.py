"""The limit on open event streams: each holds a page of events, up to 256 kB, while its reader is slow."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from langgraph_rq.producer.gateway.problems import ProblemError

_RETRY_S = 5


class Streams:
    """Counts the open streams of one process.

    Args:
        most: Of all tenants.
        most_of_tenant: Of one; None where there is one only.
    """

    def __init__(self, most: int, most_of_tenant: int | None) -> None:
        self._most = most
        self._most_of_tenant = most if most_of_tenant is None else most_of_tenant
        self._open: Counter[str] = Counter()

    @contextmanager
    def admit(self, tenant: str) -> Iterator[None]:
        """Count one stream for the time of the block. Raises ProblemError 429."""
        if self._open[tenant] >= self._most_of_tenant:
            raise self._refusal(self._most_of_tenant, "of this tenant")
        if self._open.total() >= self._most:
            raise self._refusal(self._most, "")
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]

    def _refusal(self, most: int, whose: str) -> ProblemError:
        detail = f"expected at most {most:,} open event streams {whose}".rstrip() + ": close some, or try again later"
        return ProblemError(429, "too_many_streams", detail, headers={"Retry-After": str(_RETRY_S)})

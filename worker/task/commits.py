"""The batcher of a worker's commits: results, releases and the records that go with them.

A result stays in memory until Redis has answered: written, written already, or refused because another worker owns the
task (R7 in docs/architecture.md). So a commit is repeated through any outage, even if its caller is cancelled.
"""

from redis.asyncio import Redis

from langgraph_rq.shared.connections.batching import Batcher, Retry
from langgraph_rq.shared.connections.clients import is_outage
from langgraph_rq.shared.telemetry.logs import get_logger

_CALLS = 64

_log = get_logger(__name__)


def commit_batcher(redis: Redis) -> Batcher:
    """Create a batcher that repeats calls until Redis answers."""
    retry = Retry(is_outage, on_delay=_log_delay, on_failure=_log_failure)
    return Batcher(redis, calls=_CALLS, retry=retry, on_refused=_log_refusal)


def _log_delay(calls: int, error: Exception) -> None:
    _log.debug("commit.delayed", calls=calls, error=str(error))


def _log_failure(_error: Exception) -> None:
    _log.exception("commit.failed")


def _log_refusal(error: Exception) -> None:
    _log.warning("record.refused", error=str(error))

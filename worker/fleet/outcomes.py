"""Write the outcome of an attempt to Redis: the end of its task, or its release, with the records about it."""

from collections.abc import Iterable

from redis.exceptions import RedisError

from langgraph_rq.shared.queue.answers import Finished
from langgraph_rq.shared.queue.attempts import finish_call, release_call
from langgraph_rq.shared.queue.waits import AFTER_OUTAGE, keep_call
from langgraph_rq.shared.tasks import State
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.state.checkpointer import Checkpointer
from langgraph_rq.worker.state.outages import CheckpointFencedError, CheckpointOutageError
from langgraph_rq.worker.state.saver.records import name_of
from langgraph_rq.worker.state.saver.thread_saver import ThreadSaver
from langgraph_rq.worker.task.attempt import Attempt, error_of
from langgraph_rq.worker.task.commits import commit_batcher
from langgraph_rq.worker.task.result import Ended
from langgraph_rq.worker.task.rollback import roll_back
from langgraph_rq.worker.task.run import Released
from langgraph_rq.worker.task.run_context import RunContext

_LAST_RECORDS_S = 2.0
"""How long a worker that ends waits until its last records are written."""

_log = get_logger(__name__)


class OutcomeWriter:
    """Writes the outcomes of one process' attempts.

    Args:
        context: What the tasks share.
        checkpoint_ttl_s: How long the checkpoints of a task without thread outlive its success.
    """

    def __init__(self, context: RunContext, checkpoint_ttl_s: float) -> None:
        self._context = context
        self._checkpoint_ttl_s = checkpoint_ttl_s
        self._commits = commit_batcher(context.redis)

    async def write(self, attempt: Attempt, outcome: Ended | Released) -> None:
        """Commit the outcome, however long Redis is away. A task that another worker owns by now is left alone."""
        if isinstance(outcome, Released):
            await self._release(attempt, outcome)
        else:
            await self._finish(attempt, outcome)

    def record_wait(self, attempt: Attempt, thing: str) -> None:
        """Record what an attempt waits for that keeps its memory; empty: it goes on."""
        self._commits.send(keep_call(attempt.claimed.id, attempt.claimed.epoch, attempt.worker, thing))

    async def expire_checkpoints(
        self, threads: Iterable[str], state: State, checkpointer: Checkpointer | None = None
    ) -> None:
        """Let the own checkpoints of ended tasks go: soon after a success, and later where they may be continued.

        Args:
            threads: The tasks' own threads.
            state: How they ended.
            checkpointer: That of their graph, if it may have its own.
        """
        checkpointer = checkpointer or self._context.checkpointer
        if checkpointer is None:
            return
        for thread in threads:
            try:
                await checkpointer.expire_thread(thread, self._kept_ms(state) / 1000)
            except (RedisError, CheckpointOutageError, CheckpointFencedError) as error:  # their longer TTL stays
                _log.warning("checkpoints.not_expired", error=str(error))

    def repeat_audit_entries(self) -> None:
        """Send the audit entries again that Redis should have taken by now."""
        if self._context.audit:
            self._commits.send(*self._context.audit.overdue())

    async def close(self) -> None:
        """Write the records that are left, for a short time."""
        if self._context.audit:
            self._commits.send(*self._context.audit.unacknowledged(is_last=True))
        await self._commits.aclose(_LAST_RECORDS_S)

    async def _release(self, attempt: Attempt, released: Released) -> None:
        attempt.leave_graph(None)
        claimed = attempt.claimed
        wait = released.wait
        call = release_call(
            claimed.id,
            claimed.epoch,
            claimed.queue,
            attempt.worker,
            wait,
            failed=released.failed,
            group_size=released.group_size,
        )
        if await self._commits.run(call):
            # The message of a failed graph may quote a prompt.
            reason = "the graph failed" if released.failed else released.reason
            if wait.thing and not released.failed and attempt.waits.would_pay_again:
                _log.warning("task.pays_again", waits_for=wait.thing)
            _log.info("task.released", reason=reason, waits_for=wait.thing or None, delay_ms=wait.delay_ms)

    async def _finish(self, attempt: Attempt, ended: Ended) -> None:
        attempt.leave_graph(ended)
        self._send_audit_entry(attempt, ended)
        finished = await self._commit(attempt, ended)
        if finished is Finished.TO_ROLL_BACK:
            rolled_back = await roll_back(attempt, ended)
            if rolled_back is None:
                await self._release(attempt, Released(AFTER_OUTAGE, "its thread could not be rolled back"))
                return
            if rolled_back.state is not ended.state:
                self._send_audit_entry(attempt, rolled_back)
            ended = rolled_back
            finished = await self._commit(attempt, ended, is_rolled_back=True)
        if finished is Finished.FORGOTTEN:
            self._commits.send(attempt.fenced_call())
            await self._release(attempt, Released(AFTER_OUTAGE, "Redis has forgotten its last checkpoint"))
            return
        if finished is Finished.FENCED:
            self._commits.send(attempt.fenced_call())
            _log.warning("task.fenced", state=ended.state)
            attempt.end("fenced")
            return
        attempt.log_end(ended)
        attempt.end(error_of(ended))
        if ended.spent_thread and not _thread_ms(attempt):
            await self.expire_checkpoints([ended.spent_thread], ended.state, attempt.context.checkpointer)

    async def _commit(self, attempt: Attempt, ended: Ended, *, is_rolled_back: bool = False) -> Finished:
        keys, task_id = self._context.keys, attempt.claimed.id
        thread_ms = _thread_ms(attempt)
        spent_thread = (thread_ms and ended.spent_thread) or ""
        call = finish_call(
            attempt.claimed,
            attempt.worker,
            ended.state,
            keys.sign_result(task_id, ended.document) if keys else ended.document,
            self._context.times,
            failure=ended.failure,
            error_type=ended.error_type,
            run_s=ended.run_s,
            question=ended.question,
            is_rolled_back=is_rolled_back,
            spent_thread=spent_thread,
            kept_ms=self._kept_ms(ended.state) if spent_thread else thread_ms,
            last_checkpoint=_last_checkpoint(attempt, ended) if thread_ms else b"",
        )
        try:
            return await self._commits.run(call)
        except Exception:
            self._commits.send(attempt.fenced_call())
            raise

    def _kept_ms(self, state: State) -> int:
        is_done = state is State.SUCCESS
        return round(self._checkpoint_ttl_s * 1000) if is_done else self._context.times.kept_ms(state)

    def _send_audit_entry(self, attempt: Attempt, ended: Ended) -> None:
        """Send the audit entry in the round trip of the commit."""
        try:
            self._commits.send(attempt.audit_call(ended))
        except Exception as error:  # a record that cannot be made must not keep its task from ending
            _log.warning("record.refused", error=type(error).__name__)


def _thread_ms(attempt: Attempt) -> int:
    """Return how long a thread's checkpoints are kept, if the script that ends a task can expire them; else 0."""
    checkpointer = attempt.context.checkpointer
    return checkpointer.ttl_ms if isinstance(checkpointer, ThreadSaver) and checkpointer.is_beside_tasks else 0


def _last_checkpoint(attempt: Attempt, ended: Ended) -> bytes:
    """Return the name of the checkpoint that the next task of the thread needs; empty: it may begin with any."""
    is_needed = attempt.last_checkpoint and ended.state in {State.SUCCESS, State.INTERRUPTED}
    return name_of("", attempt.last_checkpoint) if is_needed else b""

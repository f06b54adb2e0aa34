"""Twenty questions, end to end: a private Redis, a model, one worker process, and a client that waits for the answers.

Run it with `make demo`, or with `python -m examples.demo`. With OPENAI_API_KEY or OPENAI_BASE_URL set it asks the real
API, else a model server on this machine. It ends every process that it started, also when interrupted, and leaves no
file.

Exit codes: 0 all questions were answered, 1 some were not, 2 something did not start, 130 interrupted.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from langgraph_rq import Client, LanggraphRqError, State, TaskResult
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from langgraph_rq.shared.settings import ModelSettings, load, refuse_unknown_names
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM, OfflineLLMError

QUESTIONS = (
    "What is the capital of Australia?",
    "Which planet has the most moons?",
    "Who wrote Middlemarch?",
    "What is 17 times 23?",
    "When did the Berlin Wall fall?",
    "What does the acronym TTL stand for?",
    "Is a tomato a fruit?",
    "Translate 'good morning' into Portuguese.",
    "How does a circuit breaker protect a service?",
    "Why is the sky blue at noon and red at sunset?",
    "Explain what a fencing token is.",
    "Compare a queue with a log.",
    "What is the difference between a lease and a lock?",
    "Summarise the plot of Hamlet in three sentences.",
    "How do vaccines train the immune system?",
    "Design a rate limiter for ten thousand users.",
    "Weigh the trade-offs of event sourcing for a bank.",
    "Prove that there are infinitely many primes.",
    "Design a schema for a library that lends books and games.",
    "Optimise a SQL query that scans a billion rows every night.",
)
LATENCY_S = 0.2
"""Of the model server on this machine."""
ANSWER_TIMEOUT_S = 120.0
"""For all twenty."""

ROOT = Path(__file__).resolve().parent.parent
_END_TIMEOUT_S = 10.0
_LAST_LINES = 5
_PIPED_WIDTH = 1_000
"""A pipe cuts no question; a table takes no more than it needs."""
_FIGURES_WIDTH = 59
"""Width of the columns beside the question."""

# `read` returns when our end of its pipe closes, which the kernel does even after kill -9.
_END_WITH_PARENT = 'exec 3<&0; (read -r _ <&3; kill "$$") >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'

NEXT = """\
Try next, each in a terminal of its own:
  .venv/bin/langgraph-producer dev redis
  .venv/bin/langgraph-producer dev model --port 8123
  OPENAI_BASE_URL=http://127.0.0.1:8123/v1 OPENAI_API_KEY=offline .venv/bin/langgraph-worker
  .venv/bin/langgraph-producer submit "What is a lease?" --wait"""


class WorkerError(Exception):
    """The worker ended early; the message quotes the end of its log."""


def main() -> int:
    """Run the demo and return the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return ask_all(console)
    except KeyboardInterrupt:
        console.print("interrupted: everything that was started has been ended")
        return 130
    except (EmbeddedRedisError, OfflineLLMError, WorkerError, LanggraphRqError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2


def ask_all(console: Console) -> int:
    """Start what is needed, ask, show the answers' figures, and end what was started."""
    refuse_unknown_names()
    with ExitStack() as started:
        redis = started.enter_context(EmbeddedRedis())
        model = choose_model(started, console)
        with console.status("Starting a worker: importing LangGraph takes a few seconds"):
            started.enter_context(run_worker({"REDIS_URL": redis.url, **model}))
        client = started.enter_context(Client(redis.url))
        began = time.monotonic()
        receipts = client.submit_many([{"input": {"query": question}} for question in QUESTIONS])
        questions = {receipt.task_id: question for receipt, question in zip(receipts, QUESTIONS, strict=True)}
        results = {result.task_id: result for result in _progress(console, client, questions)}
        took_s = time.monotonic() - began
    console.print(_table(questions, results, max(20, console.width - _FIGURES_WIDTH)))
    succeeded = sum(result.status is State.SUCCESS for result in results.values())
    totals = _totals(results.values(), succeeded, took_s, is_offline=bool(model))
    console.print(f"\n{totals}", style="bold", soft_wrap=True)
    console.print(f"\n{NEXT}", style="dim", markup=False, soft_wrap=True)
    return 0 if succeeded == len(QUESTIONS) else 1


def choose_model(started: ExitStack, console: Console) -> Mapping[str, str]:
    """Print which model API is used; return the worker's settings for the offline server if that was started."""
    given = load(ModelSettings)
    if given.openai_api_key or given.openai_base_url:
        console.print(f"Model: the real API at {given.openai_base_url or 'OpenAI'}; this costs a few cents.")
        return {}
    offline = started.enter_context(OfflineLLM(latency_s=LATENCY_S))
    console.print("Model: an offline server, as OPENAI_API_KEY is not set: canned answers, real prices.")
    return {"OPENAI_BASE_URL": offline.url, "OPENAI_API_KEY": "offline"}


@contextmanager
def run_worker(environment: Mapping[str, str]) -> Iterator[None]:
    """Run one worker process, from when it serves until the end of the block.

    Raises:
        WorkerError: it ended at once, for the reason in the message.
    """
    worker = [sys.executable, "-m", "langgraph_rq.worker", "--config", str(ROOT / "langgraph.json")]
    process = subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", _END_WITH_PARENT, "sh", *worker],
        env={**os.environ, **environment, "LGRQ_LOG_LEVEL": "info", "LGRQ_DRAIN_S": "1"},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process only
    )
    assert process.stderr
    said: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        for line in process.stderr:
            said.append(line)
            if '"worker.started"' in line:
                break
        else:
            _fail(process.wait(), said)
        # Keep reading: a full pipe would block the worker.
        Thread(target=said.extend, args=(process.stderr,), daemon=True).start()
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin
        process.stdin.close()


def _fail(code: int, said: Iterable[str]) -> NoReturn:
    raise WorkerError(f"the worker ended with {code} before it served anything: {''.join(said).strip() or 'no reason'}")


def _progress(console: Console, client: Client, task_ids: Iterable[str]) -> Iterator[TaskResult]:
    """Yield results as they come, with a bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        answers = client.wait_each(task_ids, ANSWER_TIMEOUT_S)
        yield from progress.track(answers, total=len(QUESTIONS), description="Answered")


def _table(questions: Mapping[str, str], results: Mapping[str, TaskResult], question_width: int) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("task", no_wrap=True, overflow="ellipsis", max_width=question_width)
    for column in ("complexity", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("tokens", "cost $", "time s"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for task_id, question in questions.items():
        result = results[task_id]
        metadata = result.metadata
        table.add_row(
            Text(question),
            metadata.complexity or "-",
            metadata.model or "-",
            str(metadata.input_tokens + metadata.output_tokens),
            f"{metadata.cost_usd:.5f}",
            f"{metadata.run_ms / 1000:.2f}",
            Text(result.status, style="green" if result.status is State.SUCCESS else "red"),
        )
    return table


def _totals(results: Iterable[TaskResult], succeeded: int, took_s: float, *, is_offline: bool) -> str:
    all_metadata = [result.metadata for result in results]
    tokens = sum(metadata.input_tokens + metadata.output_tokens for metadata in all_metadata)
    cost = sum(metadata.cost_usd for metadata in all_metadata)
    price = "would have cost" if is_offline else "cost"
    return f"{succeeded} of {len(QUESTIONS)} succeeded in {took_s:.1f} s; {tokens:,} tokens {price} ${cost:.4f}."


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""A fork server of worker processes, which imports everything once, as `langgraph-worker --processes` does.

`python -m tests.chaos.testbed.fork_server` reads one JSON object per line from standard input, {"log", "environment",
"arguments", "mutant"}, forks a worker and prints its process id. The workers end when it ends.
"""

import json
import os
import signal
import sys
import threading
from typing import Any

import langgraph_rq.worker.boot  # noqa: F401 - imported before the fork
from langgraph_rq.shared.telemetry.logs import get_logger
from langgraph_rq.worker.command import main as run_worker
from langgraph_rq.worker.fleet import loop_watch
from tests.chaos.checking.mutants import MUTANTS
from tests.chaos.testbed import graphs  # noqa: F401 - imported before the fork
from tests.chaos.testbed.instrument import install

STUCK_S = "CHAOS_STUCK_S"
"""Environment variable: after how long an event loop that does not run is given up."""


def main() -> None:
    """Fork a worker for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    alive_read, alive_write = os.pipe()
    _answer("ready")
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(alive_write)
            threading.Thread(target=_end_with_parent, args=(alive_read,), daemon=True).start()
            _run(order)
        _answer(str(pid))


def _answer(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def _run(order: dict[str, Any]) -> None:
    code = 1
    try:
        os.setpgrp()
        said = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in (1, 2):
            os.dup2(said, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(order["environment"])
        loop_watch.STUCK_S = float(os.environ.get(STUCK_S, loop_watch.STUCK_S))
        mutant = MUTANTS.get(order["mutant"])
        install(mutant.scripts if mutant else {})
        if mutant and mutant.patch:
            mutant.patch()
        run_worker(order["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        get_logger(__name__).exception("worker.failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""The two commands as a newcomer types them, with nothing set but what the test says."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from langgraph_rq.producer.cli.main import main
from tests.installation import clean_environment

TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program wrote, and its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of an error that it ended with."""
        assert self.code not in {0, 1}, self
        assert self.stderr.startswith("error: "), self
        assert self.stderr.count("\n") == 1, self
        return self.stderr.removeprefix("error: ").strip()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that it logged."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]


def produce(*arguments: str, **environment: str) -> Ended:
    """Run `langgraph-producer ARGUMENTS` in this process."""
    unset: dict[str, str | None] = dict.fromkeys(os.environ.keys() - clean_environment({}).keys())
    done = CliRunner().invoke(main, arguments, env={**unset, "COLUMNS": "300", **environment})
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return Ended(done.exit_code, done.stdout, done.stderr)


def work(*arguments: str, cwd: Path | None = None, **environment: str) -> Ended:
    """Run `langgraph-worker ARGUMENTS` to its end."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "langgraph_rq.worker", *arguments],
        cwd=cwd,
        env=clean_environment({"COLUMNS": "300", **environment}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)

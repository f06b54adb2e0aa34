"""A newcomer, who has no REDIS_URL, no settings and no redis-cli on the path."""

import subprocess
from pathlib import Path

from tests.gateways import free_port
from tests.installation import START_TIMEOUT_S, clean_environment
from tests.newcomers.programs import TIMEOUT_S
from tests.waiting import until_sync

REDIS_RUNS, MODEL_RUNS, WORKER_RUNS = "REDIS_URL=unix://", "OPENAI_BASE_URL=http://", '"worker.started"'
"""What the lines print once they are ready."""


class User:
    """Somebody with a home of their own who types lines into terminals.

    Args:
        home: Its path must be short: that of a socket has 107 characters at most.
        commands: Where the commands are installed.
    """

    def __init__(self, home: Path, commands: Path) -> None:
        self.environment = clean_environment(
            {"PATH": f"{commands}:/usr/bin:/bin", "XDG_DATA_HOME": str(home), "HOME": str(home)}
        )
        self._commands = commands
        self._port = str(free_port())  # the printed one may be taken on this machine
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, line: str, folder: Path, sign_of_life: str) -> None:
        """Type a line that keeps its terminal busy."""
        log = folder / f"{len(self._running)}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                ["bash", "-c", self._here(line)], cwd=folder, env=self.environment, stdout=said, stderr=said
            )
        self._running.append(process)
        until_sync(lambda: sign_of_life in log.read_text() or process.poll() is not None, START_TIMEOUT_S)
        assert sign_of_life in log.read_text(), f"{line}\n{log.read_text()}"

    def run(self, lines: str, folder: Path) -> str:
        """Type lines and return what they print."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(lines)],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _here(self, lines: str) -> str:
        return lines.replace("8123", self._port).replace(".venv/bin/", f"{self._commands}/")

    def leave(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()

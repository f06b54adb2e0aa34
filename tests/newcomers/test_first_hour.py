"""The lines that `make demo` and README.md print, typed by a user who has no REDIS_URL and no redis-cli on the path."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo import NEXT
from tests.gateways import free_port
from tests.installation import ROOT, START_TIMEOUT_S, clean_environment
from tests.newcomers.programs import TIMEOUT_S, produce, work
from tests.waiting import until_sync

USE = (ROOT / "README.md").read_text().partition("## Use it")[2].partition("### A task")[0]
SNIPPETS = re.findall(r"^```(sh|python)\n(.*?)^```$", USE, flags=re.MULTILINE | re.DOTALL)
FIRST_LINES = re.findall(r"^\$ (.*)$", USE, flags=re.MULTILINE)
EXPORT = "export $(langgraph-producer dev redis --url)"
BIN = Path(sys.executable).parent
SIGNS_OF_LIFE = ("REDIS_URL=unix://", "OPENAI_BASE_URL=http://", '"worker.started"')


class User:
    """Somebody with a home of their own who types lines into terminals."""

    def __init__(self, home: Path) -> None:
        self.environment = clean_environment(
            {"PATH": f"{BIN}:/usr/bin:/bin", "XDG_DATA_HOME": str(home), "HOME": str(home)}
        )
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
        return lines.replace("8123", self._port).replace(".venv/bin/", f"{BIN}/")

    def leave(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()


@pytest.fixture
def user(tmp_path_factory):
    somebody = User(tmp_path_factory.mktemp("u"))  # short: a socket's path has 107 characters at most
    yield somebody
    somebody.leave()


def test_lines_of_the_readme_work_in_any_folder_as_printed(user, tmp_path_factory):
    assert len(FIRST_LINES) == len(SIGNS_OF_LIFE)
    for line, sign_of_life in zip(FIRST_LINES, SIGNS_OF_LIFE, strict=True):
        user.start(line, tmp_path_factory.mktemp("terminal"), sign_of_life)
    folder = tmp_path_factory.mktemp("terminal")
    assert EXPORT in USE
    printed = ""
    for language, code in SNIPPETS:
        script = folder / "snippet.py"
        script.write_text(code)
        of_others = EXPORT + "\n" if "REDIS_URL" in code and "rq" in code else ""
        printed += user.run(of_others + (code if language == "sh" else f"python {script}"), folder)
    documents = [json.loads(line) for line in printed.splitlines() if line.startswith('{"schema')]
    assert [(one["task_id"], one["status"]) for one in documents] == [("ticket-42", "success"), ("log-1", "success")]


def test_lines_after_the_demo_work_as_printed(user, tmp_path_factory):
    *running, last = re.findall(r"^  (.*)$", NEXT, flags=re.MULTILINE)
    for line, sign_of_life in zip(running, SIGNS_OF_LIFE, strict=True):
        user.start(line, tmp_path_factory.mktemp("terminal"), sign_of_life)
    assert "lease" in user.run(last, ROOT)


@pytest.mark.parametrize("program", [work, lambda **given: produce("workers", **given)], ids=["worker", "producer"])
def test_no_redis_of_others_is_used_without_a_word(program, tmp_path):
    said = program(XDG_DATA_HOME=str(tmp_path)).error
    assert said.startswith(f"cannot reach Redis at unix://{tmp_path}/langgraph-rq/redis/redis.sock?db=0: your private")
    assert "start it with `langgraph-producer dev redis`, or set REDIS_URL" in said

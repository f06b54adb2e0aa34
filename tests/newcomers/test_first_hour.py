"""The lines that `make demo` and docs/how-to.md print, typed as they stand."""

import json
import re
import sys
from pathlib import Path

import pytest

from examples.demo import NEXT
from tests.installation import ROOT
from tests.newcomers.programs import produce, work
from tests.newcomers.user import MODEL_RUNS, REDIS_RUNS, WORKER_RUNS, User

USE = (ROOT / "docs/how-to.md").read_text().partition("## Your own graphs")[0]
SNIPPETS = re.findall(r"^```(sh|python)\n(.*?)^```$", USE, flags=re.MULTILINE | re.DOTALL)
FIRST_LINES = re.findall(r"^\$ (.*)$", USE, flags=re.MULTILINE)
EXPORT = "export $(langgraph-producer dev redis --url)"
SIGNS_OF_LIFE = (REDIS_RUNS, MODEL_RUNS, WORKER_RUNS)


@pytest.fixture
def user(tmp_path_factory):
    somebody = User(tmp_path_factory.mktemp("u"), Path(sys.executable).parent)
    yield somebody
    somebody.leave()


@pytest.mark.slow
def test_lines_of_the_how_to_work_in_any_folder_as_printed(user, tmp_path_factory):
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

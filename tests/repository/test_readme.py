"""README.md and the pages behind it are true: what they show is run, and what they list is what there is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from langgraph_rq.producer.cli.views.output import EXIT_CODES
from langgraph_rq.shared.errors import ErrorType
from langgraph_rq.shared.results import TaskResult
from langgraph_rq.shared.tasks import State, Task
from tests.installation import ROOT, Installation, clean_environment
from tests.servers import path_with_redis_cli

TASKS = (ROOT / "docs/tasks.md").read_text()
HOW_TO = (ROOT / "docs/how-to.md").read_text()
BLOCKS = re.findall(r"^```(\w+)( \w+)?\n(.*?)^```$", TASKS + HOW_TO, flags=re.MULTILINE | re.DOTALL)
TIMEOUT_S = 60
OURS_TO_SET = {"schema", "tenant", "resume", "continues", "traceparent", "submitted_at"}


def run_blocks(installation: Installation, name: str = "") -> str:
    """Run the shell and Python blocks of this name in their order; answers what they printed."""
    tools = os.pathsep.join([str(Path(sys.executable).parent), path_with_redis_cli()])
    environment = clean_environment({**installation.environment, "PATH": tools})
    printed = ""
    for language, of, code in BLOCKS:
        if of.strip() == name and language in {"sh", "python"}:
            command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
            done = subprocess.run(
                [*command, code], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
            printed += done.stdout
    return printed


def table(first_header: str) -> set[str]:
    """Take the code words out of the first column of the tables with this header."""
    tables = TASKS.split(f"| {first_header} |")[1:]
    rows = [row for one in tables for row in one.partition("\n\n")[0].splitlines()[2:]]
    return {word for row in rows for word in re.findall(r"`([\w.]+)`", row.split("|")[1])}


@pytest.mark.slow
def test_shown_commands_and_programs_run(installation):
    assert "LGRQ_LEASE_S" in run_blocks(installation)


def test_shown_project_of_ones_own_runs(support_desk):
    assert "Choose 'Forgot password'" in run_blocks(support_desk, "support_desk")


def test_shown_result_has_exactly_the_fields_of_a_result():
    (shown,) = (json.loads(code) for language, _, code in BLOCKS if language == "json")
    assert TaskResult.model_validate(shown).model_dump(mode="json", by_alias=True).keys() == shown.keys()
    assert shown["metadata"].keys() == TaskResult.model_fields["metadata"].annotation.model_fields.keys()


def test_table_of_fields_is_complete():
    names = {info.alias or name for name, info in Task.model_fields.items()}
    assert table("Field") == names - OURS_TO_SET


def test_table_of_states_is_complete():
    assert table("`status`") == set(State)


def test_table_of_error_types_is_complete():
    assert table("`error.type`") == set(ErrorType)


def test_table_of_exit_codes_is_complete():
    rows = TASKS.partition("| Exit code |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\d) \|", rows, re.MULTILINE) == re.findall(r"^  (\d)  ", EXIT_CODES, re.MULTILINE)


def test_readme_is_a_door():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 125


def test_index_links_every_page():
    linked = set(re.findall(r"\]\(([\w./-]+\.md)", (ROOT / "docs/index.md").read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/*.md")}
    assert pages - linked == {"index.md"}


def test_reading_map_names_seven_files():
    files = re.findall(
        r"^\d\. `([\w/.]+)`: ", (ROOT / "CONTRIBUTING.md").read_text().partition("## Reading map")[2], re.MULTILINE
    )
    assert len(files) == 7
    assert [file for file in files if not (ROOT / file).is_file()] == []

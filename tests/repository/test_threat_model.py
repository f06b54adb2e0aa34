"""The threat model says per row what holds, and names tests that exist."""

import ast
import re
from functools import cache

import pytest

from tests.installation import ROOT

PAGE = (ROOT / "docs/threat-model.md").read_text()
ATTACKERS = (
    "A user who only writes texts",
    "A stolen API key",
    "The producer role",
    "The worker role",
    "The dashboard role",
    "Redis' disk",
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| Attempt |"))
]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_each_attacker_has_a_table():
    sections = PAGE.split("\n## ")[1:]
    tables = [section.partition("\n")[0] for section in sections if "\n| Attempt | Result | Why | Test |\n" in section]
    assert tables == list(ATTACKERS)


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_is_named_exists(file, test):
    assert test in names_in(file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_has_a_result_and_what_holds_has_a_test(row):
    _, result, why, tests = row
    assert result in {"holds", "in part", "does not"}
    assert why
    assert tests == "-" or re.fullmatch(r"(`tests/[\w/]+\.py::\w+`(, )?)+", tests)
    assert result != "holds" or tests != "-"


@pytest.mark.parametrize("page", ["docs/security.md", "SECURITY.md"])
def test_pages_on_security_link_it(page):
    assert "threat-model.md)" in (ROOT / page).read_text()

"""The pages are true: links resolve, and the paths, commands, settings and rules that they name exist."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from langgraph_rq.producer.cli.main import main as producer
from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.shared.settings import ALL, GatewaySettings
from langgraph_rq.worker.command import main as worker
from tests.installation import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
DECISIONS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```\w*[^\n]*\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
FOLDERS = "benchmarks|deploy|docs|examples|langgraph_rq|producer|shared|tests|worker"
PATH = re.compile(rf"(?<![\w./:<-])(?:{FOLDERS})/[\w./*-]*")
COMMAND = re.compile(r"\b(langgraph-producer|langgraph-worker)((?: [^\s`|>&#;)\\]+)*)")
SETTING = re.compile(r"\bLGRQ_[A-Z0-9_]+\b(?!\*)")

ATTRIBUTES = set(re.findall(r'"(langgraph_rq\.\w+)"', (ROOT / "worker/tracing/attempt_spans.py").read_text()))
"""Of spans; they are named like modules."""

COMMANDS = {"langgraph-producer": producer, "langgraph-worker": worker}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def code_of(text: str) -> Iterator[str]:
    """Yield the contents of the code blocks and of the code spans."""
    return (block or span for block, span in CODE.findall(text))


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """Name the anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pages
def test_every_relative_link_and_its_anchor_exist(page):
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file.resolve()), target


@pages
def test_every_piece_of_code_says_its_language(page):
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert "" not in fences[::2]  # else no test that runs the code of the pages sees it


@pages
def test_every_path_into_the_repository_exists(page):
    base = page.parent if "examples" in page.parts else ROOT
    for path in {path.rstrip("./") for path in PATH.findall(page.read_text())}:
        # Without its suffix a name may be a module or a package.
        assert any(any(root.glob(name)) for root in (base, ROOT) for name in (path, f"{path}.py")), path


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_every_module_that_is_named_exists(page):
    code = "\n".join(code_of(page.read_text()))
    names = re.findall(r"\blanggraph_rq(?:\.\w+)+|(?<=python -m )[\w.]+", code)
    assert [name for name in names if name not in ATTRIBUTES and not is_importable(name)] == []


def is_importable(name: str) -> bool:
    """Say whether this is a module, or a name of a module."""
    parent, _, last = name.rpartition(".")
    try:
        return find_spec(name) is not None or hasattr(import_module(parent), last)
    except ModuleNotFoundError:  # it is below a module that is no package, or below nothing
        return False


@pages
def test_every_command_and_option_that_is_shown_exists(page):
    for code in code_of(page.read_text()):
        for name, arguments in COMMAND.findall(code.replace("\\\n", "")):
            check_command(COMMANDS[name], arguments)


def check_command(command: click.Command, arguments: str) -> None:
    """Follow the sub-commands, then look for each long option."""
    words = shlex.split(arguments.replace("'", "").replace('"', ""))
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z-]+", words[0]) and words[0][0] != "-":
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    passes_on = command.context_settings.get("ignore_unknown_options")
    assert passes_on or {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


@pages
def test_every_make_target_that_is_shown_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(code_of(page.read_text()))
    assert set(re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z][a-z-]*)", code)) <= targets


@pages
def test_every_setting_that_is_named_exists(page):
    known = {name for settings in ALL for name in settings.names()}
    named = {name for name in SETTING.findall(page.read_text()) if not name.endswith("_")}
    assert {name.removesuffix("_FILE") for name in named if name not in known} <= known | EXAMPLES


EXAMPLES = {"LGRQ_EXAMPLE_S"}
"""Settings that a page makes up."""


def test_every_rule_that_a_comment_cites_has_a_heading():
    rules = re.findall(r"^### (R\d+) ", ARCHITECTURE, re.MULTILINE)
    sources = [file for folder in ("producer", "shared", "worker") for file in (ROOT / folder).rglob("*.*")]
    code = "\n".join(file.read_text() for file in sources if file.suffix in {".py", ".lua"})
    text = "\n".join(page.read_text() for page in PAGES)
    cited = re.findall(r"\b(R\d+)(?=[^\n]{0,40} in docs/architecture\.md)", code)
    cited += re.findall(r"\((R\d+)\)", text)
    assert set(cited) <= set(rules)
    assert rules == sorted(set(rules), key=lambda rule: int(rule[1:]))


def test_every_verb_of_the_queue_is_explained():
    verbs = {file.stem for file in (ROOT / "shared/queue/scripts").rglob("*.lua")}
    table = ARCHITECTURE.partition("### Verbs")[2].partition("\n### ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == verbs


def test_every_folder_of_code_is_explained():
    table = ARCHITECTURE.partition("## Folders")[2].partition("\n## ")[0]
    explained = {folder.rstrip("/") for folder in re.findall(r"`([\w/]+/)`", table)}
    folders = {
        str(file.parent.relative_to(ROOT))
        for top in ("producer", "shared", "worker")
        for file in (ROOT / top).glob("*/__init__.py")
    }
    assert folders <= explained


def test_every_command_of_the_producer_is_in_the_reference():
    table = (ROOT / "docs/cli.md").read_text()
    assert set(re.findall(r"^\| `langgraph-producer ([a-z-]+)` \|", table, re.MULTILINE)) == producer.commands.keys()


def test_every_route_of_the_gateway_is_in_the_reference():
    rows = (ROOT / "docs/http.md").read_text().partition("| Route |")[2].partition("\n\n")[0]
    shown = {path.split("?")[0] for row in rows.splitlines() for path in re.findall(r"(/[^`\s,]+)`", row.split("|")[1])}
    paths = create_app(GatewaySettings(without_keys=True)).openapi()["paths"]
    assert {re.sub(r"\{\w+\}", "{}", path) for path in shown} == {re.sub(r"\{\w+\}", "{}", path) for path in paths}


def test_index_of_decisions_lists_each_of_them_in_order():
    linked = re.findall(r"^\| \[(\d{4})\]\(([\w.-]+)\)", (ROOT / "docs/adr/README.md").read_text(), re.MULTILINE)
    assert [name for _, name in linked] == [file.name for file in DECISIONS]
    assert [number for number, _ in linked] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda file: file.stem)
def test_decision_has_a_context_a_decision_and_consequences(decision):
    text = decision.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert text.startswith(f"# {decision.name[:4]}: ")
    assert 20 <= len(text.splitlines()) <= 40

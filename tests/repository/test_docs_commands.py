"""The command lines and answers of the pages, run as they stand.

Other tests run those of README.md, docs/how-to.md, docs/guards.md and docs/tasks.md. Programs that need an engine or a
cluster (docker-compose, kubectl) are recorded: what they were asked for is compared with what there is.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from langgraph_rq import Client
from langgraph_rq.producer.cli.main import main
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.settings import ALL, load
from langgraph_rq.worker.graphs.langgraph_json import read_langgraph_json
from langgraph_rq.worker.state.serializer import StateSerializer
from langgraph_rq.worker.state.state_keys import StateKeys
from tests.chaos.__main__ import _parser as chaos_options
from tests.deployment import make_secrets
from tests.gateways import free_port, gateway
from tests.installation import ROOT, clean_environment
from tests.newcomers.user import MODEL_RUNS, User
from tests.servers import path_with_redis_cli
from tests.waiting import until_sync

BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Of every page: another test refuses code that does not name its language."""
SHOWN = {"bash", "console", "env", "json", "python", "sh"}
RECORDED = ("docker", "docker-compose", "kubectl")
RECORDER = """#!/bin/sh
[ "$0 $1 $2" = "$(dirname "$0")/docker compose version" ] && exit 1
{ printf '%s' "$(basename "$0")"; printf '\\0%s' "$@"; printf '\\1'; } >> "$RECORD"
env > "$RECORD.env"
"""
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())


def lines(page: str) -> list[str]:
    """Return the lines that are typed, each continued one as one."""
    code = "".join(code for language, code in blocks(page) if language == "console")
    return [line.rstrip() for line in re.findall(r"^\$ ((?:.*\\\n)*.*)$", code, re.MULTILINE)]


def test_xargs_has_no_options_that_macos_lacks():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("producer/cli/*.py")]
    assert {page.name: found for page in pages if (found := re.findall(r"xargs +-[^P ]\S*", page.read_text()))} == {}


@pytest.fixture(scope="module")
def made_secrets(tmp_path_factory):
    return make_secrets(tmp_path_factory.mktemp("made") / "secrets")


@pytest.fixture
def type_line(tmp_path):
    """Type a line in a copy of what it may need of the repository; answers what was asked of recorded programs."""
    for name in ("Makefile", "compose.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    programs, record = tmp_path / "programs", tmp_path / "record"
    programs.mkdir()
    for name in RECORDED:
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])

    def run(line: str) -> list[list[str]]:
        record.write_text("")
        environment = clean_environment({"PATH": path, "RECORD": str(record)})
        command = ["bash", "-euo", "pipefail", "-c", line]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return [asked.split("\0") for asked in record.read_text().split("\1") if asked]

    return run


def test_every_page_with_code_is_read_by_a_test_that_runs_it():
    own = {Path(__file__).name, "test_docs.py"}
    sources = "\n".join(file.read_text() for file in ROOT.glob("tests/**/*.py") if file.name not in own)
    run_here = {
        *("chaos", "http", "observability", "offline-model", "operations", "reference/langgraph-json", "scaling"),
        "state",
    }
    shown = {
        str(page.relative_to(ROOT / "docs").with_suffix(""))
        for page in ROOT.glob("docs/**/*.md")
        if any(language in SHOWN for language, _ in BLOCK.findall(page.read_text()))
    }
    assert run_here <= shown
    assert {page for page in shown - run_here if f"{page}.md" not in sources} == set()


MAKE_LINES = [line for page in ("operations", "scaling") for line in lines(page) if "make " in line]


@pytest.mark.parametrize("line", [line for line in MAKE_LINES if "secrets" not in line.partition("#")[0]])
def test_line_with_make_asks_compose_for_what_it_says(line, type_line, made_secrets, tmp_path):
    if "OPENAI_API_KEY=" not in line:  # with it, the secrets are made
        shutil.copytree(made_secrets, tmp_path / "secrets")
    (asked,) = type_line(line)
    command, comment = (part.strip() for part in line.partition("#")[::2])
    verb = command.split("make ")[1].split()[0]
    assert (asked[0], verb) == ("docker-compose", next(word for word in asked if word in {"up", "down", "logs"}))
    if workers := re.search(r"WORKERS=(\d+)", command):
        assert f"worker={workers[1]}" in asked
    if "DEMO=1" in command:
        assert asked[asked.index("--profile") + 1] == "demo"
    for name, value in re.findall(r"(\w+)=(\S+) make", command):
        if name.startswith("LGRQ_"):
            assert name in COMPOSE["worker"]["environment"]
            assert f"{name}={value}\n" in (tmp_path / "record.env").read_text()
        else:
            (file,) = re.findall(r"\bsecrets/\w+", comment)
            assert (tmp_path / file).read_text().strip() == value


def exec_lines() -> list[str]:
    return [line for line in lines("operations") if " exec " in line]


def inner_command(asked: list[str]) -> list[str]:
    """Return the command that runs in the container, whose service there must be."""
    assert asked[:2] == ["docker-compose", "exec"]
    assert asked[2] in COMPOSE
    return asked[3:]


def test_doctor_examines_as_shown(type_line, redis_url):
    (line,) = [line for line in exec_lines() if "doctor" in line]
    program, *arguments = inner_command(type_line(line)[0])
    assert program == "langgraph-producer"
    urls = [word for word in arguments if "://" in word]
    assert {re.search(r"://(\w+)", url)[1] for url in urls} <= COMPOSE.keys()
    here = [re.sub(r"://.*", "://127.0.0.1:1", word) for word in arguments]
    done = CliRunner().invoke(main, here, env={"REDIS_URL": redis_url})
    assert done.exit_code == 2, done.output
    assert done.output.count("could not be asked") >= len(urls)


def test_refused_commands_of_redis_are_listed_as_shown(type_line, made_secrets):
    (line,) = [line for line in exec_lines() if "redis-cli" in line]
    shell, option, script = inner_command(type_line(line)[0])
    with EmbeddedRedis(aclfile=str(made_secrets / "users.acl")) as server:
        socket = server.url.removeprefix("unix://").partition("?")[0]
        reached = script.replace("--tls --cacert /run/secrets/ca.crt", f"-s {socket}")
        assert reached != script
        programs = path_with_redis_cli()
        refused = f"REDISCLI_AUTH=wrong redis-cli -s {socket} --user admin ping"
        for command in (refused, reached):
            done = subprocess.run(
                [shell, option, command.replace("/run/secrets", str(made_secrets))],
                env={**os.environ, "PATH": programs},
                capture_output=True,
                text=True,
                check=False,
            )
        assert (done.returncode, done.stderr) == (0, "")
        assert "auth" in done.stdout


def test_lines_for_kubernetes_hand_over_every_secret_and_every_file(type_line, tmp_path):
    typed = lines("scaling")
    kubernetes = typed[next(i for i, line in enumerate(typed) if "make secrets" in line) :]
    asked = [one for line in kubernetes for one in type_line(line)]
    made = {file.name for file in (tmp_path / "secrets").iterdir()}
    given = {word.rpartition("/")[2] for one in asked for word in one if word.startswith("--from-file=")}
    assert given == made - {"ca.key"}
    assert "redis.example.org" in (tmp_path / "secrets/producer_redis_url").read_text()
    namespaces = {one[one.index("--namespace") + 1] for one in asked if "--namespace" in one}
    kustomization = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())
    assert namespaces == {kustomization["namespace"]} == {asked[0][3]}
    assert [one[-1] for one in asked if "apply" in one] == ["deploy/kubernetes", "deploy/kubernetes/scaledobject.yaml"]


def test_secret_of_the_state_encrypts_it(type_line, tmp_path):
    pip, openssl = [line for line in lines("state") if " threads " not in line]  # those are typed by another test
    extras = set(re.search(r"langgraph-rq\[([\w,]+)\]", pip)[1].split(","))
    assert extras <= set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert shlex.split(pip)[:2] == ["pip", "install"]
    type_line(openssl.replace("/run/secrets", str(tmp_path)))
    serializer = StateSerializer(StateKeys.parse((tmp_path / "lgrq_state_key").read_text()))
    kind, data = serializer.dumps_typed({"secret": "told"})
    assert b"told" not in data
    assert serializer.loads_typed((kind, data)) == {"secret": "told"}


def test_store_is_written_and_searched_as_shown(installation, monkeypatch):
    (code,) = [code for language, code in blocks("state") if language == "python"]
    monkeypatch.setenv("REDIS_URL", installation.redis_url)
    exec(code, {})
    with Client() as client:
        assert client.store.get(["users", "ann"], "likes")["value"] == {"tea": True}


VARIABLES = [
    line.partition("=")[::2]
    for page in ("scaling", "state")
    for language, code in blocks(page)
    if language == "env"
    for line in code.splitlines()
]


@pytest.mark.parametrize(("name", "value"), VARIABLES)
def test_shown_value_of_a_setting_is_accepted(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    (kind,) = [kind for kind in ALL if name in kind.names()]
    assert getattr(load(kind), kind.names()[name]) is not None


def test_shown_langgraph_json_is_read_without_a_warning(tmp_path):
    ((_, code),) = blocks("reference/langgraph-json")
    (tmp_path / "langgraph.json").write_text(code)
    (tmp_path / "agents").mkdir()
    (tmp_path / ".env").touch()
    project = read_langgraph_json(tmp_path / "langgraph.json")
    assert (list(project.graphs), project.warnings) == (["support desk", "other"], ())


def test_audit_log_is_shown_checked_and_exported_as_shown(redis_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("LGRQ_AUDIT_KEY", "k" * 32)
    typed = [shlex.split(line, comments=True)[1:] for line in lines("observability")]
    with Client() as client:
        client.submit({"query": "?"}, task_id=typed[0][-1])
    shown, checked, exported = [CliRunner().invoke(main, arguments) for arguments in typed]
    assert (shown.exit_code, checked.exit_code, exported.exit_code) == (0, 0, 0)
    assert " submitted " in shown.output
    assert "every chain is whole" in checked.output
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("line", lines("chaos"))
def test_line_that_injects_faults_has_options_that_there_are(line):
    command = ["bash", "-c", line.replace("make", "make --no-print-directory --dry-run", 1)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    _, _, module, *options = shlex.split(done.stdout.splitlines()[-1])
    assert module == ("tests.chaos.soak" if "soak" in line else "tests.chaos")
    chaos_options().parse_args(options)


async def test_refused_request_is_answered_as_shown(redis_url):
    (shown,) = [json.loads(code) for language, code in blocks("http") if language == "json"]
    async with gateway(redis_url) as http:
        answer = await http.post("/tasks", json={"input": {}, "deadline_s": -1})
    shown["title"] = answer.json()["title"]  # Python 3.13 has the newer word
    assert answer.json() == shown


@pytest.fixture
def user(tmp_path_factory):
    somebody = User(tmp_path_factory.mktemp("u"), Path(sys.executable).parent)
    yield somebody
    somebody.leave()


def test_gateway_is_served_and_its_events_are_read_as_shown(user, installation, tmp_path):
    serving, following = [code for language, code in blocks("http") if language == "bash"]
    new_key, store_key, serve, serve_openly = serving.splitlines()
    user.environment |= installation.environment
    key, stored = [line.rpartition(" ")[2] for line in user.run(new_key, tmp_path).splitlines()]
    user.run(store_key.replace("acme:ca2efb...", stored), tmp_path)
    ports = [free_port(), free_port()]
    user.start(serve.replace("8080", str(ports[0])), tmp_path, "")
    user.environment["LGRQ_GATEWAY_PORT"] = str(ports[1])
    user.start(serve_openly, tmp_path, "")
    for port, status in zip(ports, (401, 200), strict=True):
        url = f"http://127.0.0.1:{port}"
        until_sync(lambda url=url: answers(url), 60)
        assert httpx.get(f"{url}/tasks").status_code == status
    task = httpx.post(
        f"http://127.0.0.1:{ports[0]}/tasks",
        json={"input": {"query": "What is a lease?"}},
        headers={"Authorization": f"Bearer {key}"},
    ).json()
    user.environment |= {"KEY": key, "ID": task["task_id"]}
    assert "event: end" in user.run(following.replace("8080", str(ports[0])), tmp_path)


def test_gateway_is_served_to_pages_of_other_origins_as_shown(user, installation, tmp_path):
    (code,) = [code for language, code in blocks("langgraph-api") if language == "bash"]
    port = free_port()
    user.environment |= {**installation.environment, "LGRQ_GATEWAY_PORT": str(port)}
    (tmp_path / "keys.txt").write_text(user.run("langgraph-producer new-key acme", tmp_path).split()[-1] + "\n")
    user.start(code.replace("langgraph-producer serve", "exec langgraph-producer serve"), tmp_path, "")
    url = f"http://127.0.0.1:{port}"
    until_sync(lambda: answers(url), 60)
    origin = "http://localhost:3000"
    answer = httpx.get(f"{url}/health", headers={"Origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_offline_model_takes_faults_as_shown(user, tmp_path):
    model, worker = lines("offline-model")
    assert [model, worker] == lines("how-to")[1:3]  # where the worker is started by another test
    (admin,) = [code for language, code in blocks("offline-model") if language == "sh"]
    user.start(model, tmp_path, MODEL_RUNS)
    assert '"calls"' in user.run(admin, tmp_path)

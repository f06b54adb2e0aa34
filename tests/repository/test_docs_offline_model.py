"""docs/offline-model.md against the server."""

import json
import re

from langgraph_rq.worker.dev.offline_model.apis.routes import Routes
from langgraph_rq.worker.dev.offline_model.faults import NAMES
from langgraph_rq.worker.dev.offline_model.process import OfflineLLM
from tests.installation import ROOT

PAGE = (ROOT / "docs/offline-model.md").read_text()


def test_table_lists_every_route():
    listed = {f"POST {path}" for path in re.findall(r"^\| `POST (\S+)`", PAGE, re.MULTILINE)} | {"GET /v1/models"}
    answer = Routes().answer("GET", "/v1/nothing", b"", {b"authorization": "Bearer k"}, "1")
    known = json.loads(answer.reply.bursts[0])["error"]["message"].partition("expected one of ")[2]
    assert listed == set(known.split(", "))


def test_urls_are_printed_as_shown():
    with OfflineLLM() as server:
        port = server.url.rpartition(":")[2].removesuffix("/v1")
        shown = [line for line in PAGE.splitlines() if line.startswith(("OPENAI_BASE_URL=", "ANTHROPIC_BASE_URL="))]
        assert [line.replace("8123", port) for line in shown] == [
            f"OPENAI_BASE_URL={server.url}",
            f"ANTHROPIC_BASE_URL={server.anthropic_url}",
        ]
        (rules,) = re.findall(r"curl -d '(.*)' ", PAGE)
        server.admin.set_faults(json.loads(rules))


def test_faults_of_the_text_exist():
    section = PAGE.partition("## Faults")[2]
    named = re.findall(r"`(\w+)`", section.partition("`--latency`")[0])
    assert set(named) <= set(NAMES)

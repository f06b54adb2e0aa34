"""The code of docs/langgraph-clients.md runs as it stands, against our gateway.

The lines of docs/coming-from-langgraph-server.md name commands and options, which exist.
"""

import re
import textwrap

import pytest

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.installation import ROOT
from tests.langgraph_api.node import bundle_page, needs_packages, run
from tests.langgraph_api.servers import serving

BLOCK = re.compile(r"^```([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "docs/langgraph-clients.md").read_text())
PYTHON = [code for language, code in BLOCKS if language == "python"]


def code_in(language: str) -> str:
    (code,) = [code for one, code in BLOCKS if one == language]
    return code


@pytest.fixture
async def here(redis_url, redis_client):
    """Put the address and the key of a gateway into code."""
    key, line = make_key("acme")
    async with serving(redis_url, redis_client, keys=line) as sdk:
        url = str(sdk.http.client.base_url)
        yield lambda code: code.replace("http://localhost:8080", url).replace("lgrq_...", key)


@pytest.mark.parametrize(
    ("block", "closing", "printed"),
    [
        (0, "", "alpha beta gamma"),
        (1, "await remote.client.aclose()\nremote.sync_client.http.client.close()", "yes"),
        (2, "assert 'tools' in agent.get_graph().nodes", ""),
    ],
    ids=["sdk", "remote-graph", "async-subagents"],
)
async def test_python_of_the_page_runs(here, monkeypatch, capsys, block, closing, printed):
    monkeypatch.setenv("OPENAI_API_KEY", "offline")
    code = textwrap.indent(f"{here(PYTHON[block])}\n{closing}", "    ")
    scope = {}
    exec(f"async def run():\n{code}", scope)
    await scope["run"]()
    assert printed in capsys.readouterr().out


def test_every_python_block_is_run():
    assert len(PYTHON) == 3


@needs_packages
async def test_javascript_of_the_page_runs(here, tmp_path):
    (tmp_path / "page.js").write_text(here(code_in("js")))
    output = await run(tmp_path / "page.js", tmp_path)
    assert output.splitlines() == ["{ question: 'approve tea?' }", "yes"]


@needs_packages
async def test_component_of_the_page_is_bundled(tmp_path):
    (tmp_path / "chat.jsx").write_text(code_in("jsx"))
    await bundle_page(tmp_path / "chat.jsx", tmp_path / "chat.js")
    assert "function Chat" in (tmp_path / "chat.js").read_text()

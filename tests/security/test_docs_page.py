"""The API's description needs nothing from elsewhere, and its origin runs no script but the shipped ones."""

import gzip
import re
from hashlib import sha256

import pytest

from tests.browsers import errors, needs_chromium, picture, start_browser, until
from tests.gateways import gateway, start_gateway
from tests.installation import ROOT

VENDORED = ROOT / "producer/gateway/console/swagger"


def test_vendored_files_are_those_of_the_named_version():
    listed = dict(re.findall(r"\| `([\w.-]+)` \| `(\w{64})` \|", VENDORED.joinpath("README.md").read_text()))
    assert listed.keys() == {"swagger-ui-bundle.js", "swagger-ui.css"}
    files = {name: gzip.decompress(VENDORED.joinpath(f"{name}.gz").read_bytes()) for name in listed}
    assert {name: sha256(content).hexdigest() for name, content in files.items()} == listed
    assert "Apache License" in VENDORED.joinpath("LICENSE.txt").read_text()


async def test_compressed_files_are_sent_as_the_browser_takes_them(redis_url):
    async with gateway(redis_url) as http:
        answers = [
            await http.get("/page/swagger-ui.css", headers={"Accept-Encoding": encoding})
            for encoding in ("gzip, br", "identity")
        ]
        missing = await http.get("/page/swagger-ui.css.map")
    assert [answer.headers.get("Content-Encoding") for answer in answers] == ["gzip", None]
    assert [answer.headers["Vary"] for answer in answers] == ["Accept-Encoding"] * 2
    assert answers[0].text == answers[1].text
    assert ".swagger-ui" in answers[0].text
    assert missing.status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_run_scripts_of_their_own_origin_only(redis_url, path):
    async with gateway(redis_url) as http:
        answer = await http.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert re.findall(r'(?:src|href)="(?!/page/)', answer.text) == []
    assert re.findall(r"<script>|<style>", answer.text) == []


@needs_chromium
def test_description_is_shown_and_asks_nobody_elsewhere(redis_url, tmp_path):
    with (
        start_gateway(tmp_path, {"REDIS_URL": redis_url}) as process,
        start_browser(tmp_path / "profile") as browser,
    ):
        process.wait_until_ready()
        for scheme, width in (("light", 960), ("dark", 960), ("light", 400)):
            browser.set_window_size(width, 900)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(f"{process.url}/docs")
            until(browser, lambda: browser.find_elements("css selector", ".opblock"))
            picture(browser, f"docs-{scheme}-{width}")
        browser.find_element(
            "css selector", "#operations-tasks-list_tasks_tasks_get button.opblock-summary-control"
        ).click()
        until(browser, lambda: browser.find_elements("css selector", ".try-out__btn"))[0].click()
        until(browser, lambda: browser.find_elements("css selector", "button.execute"))[0].click()
        until(browser, lambda: browser.find_elements("css selector", ".live-responses-table"))
        picture(browser, "docs-tried")
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert len(loaded) > 3
        assert all(name.startswith((process.url, "data:")) for name in loaded)
        assert errors(browser) == []

"""A chat page made with useStream works in a browser, from the first token to a branch of a conversation."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.graph import START, MessagesState, StateGraph
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.remote.webdriver import WebDriver

from tests.browsers import errors, needs_chromium, picture, start_browser, until
from tests.langgraph_api.node import JS, bundle_page, needs_packages
from tests.langgraph_api.servers import serving_graphs

pytestmark = [needs_chromium, needs_packages, pytest.mark.slow]

MESSAGES = """
return [document.getElementById("state")?.textContent,
  [...document.querySelectorAll("li span")].map((one) => one.textContent)]
"""
HTML = """<!doctype html><meta charset="utf-8"><title>chat</title><link rel="icon" href="data:,">
<div id="root"></div><script src="chat.js"></script>
"""


class Speaker(BaseChatModel):
    """Answers in two pieces, the second when `may_end` is set."""

    may_end: Any
    answers: int = 0

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.answers += 1
        id_ = f"answer-{self.answers}"
        yield ChatGenerationChunk(message=AIMessageChunk(f"answer {self.answers}", id=id_))
        await self.may_end.wait()
        yield ChatGenerationChunk(message=AIMessageChunk(f" to {messages[-1].content}", id=id_))

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    @property
    def _llm_type(self) -> str:
        return "speaker"


def chat_with(model: Speaker) -> Any:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()


class Page:
    """The page in a browser."""

    def __init__(self, browser: WebDriver) -> None:
        self.browser = browser

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self.browser.get, url)

    async def reload(self) -> None:
        await asyncio.to_thread(self.browser.refresh)

    async def shows(self, *texts: str, state: str) -> None:
        """Wait until these are the messages, in this state."""

        def shown() -> Any:
            return self.browser.execute_script(MESSAGES)

        try:
            await asyncio.to_thread(until, self.browser, lambda: shown() == [state, [*texts]])
        except TimeoutException:
            raise AssertionError(f"expected {texts}, {state}, got: {shown()}, {errors(self.browser)}") from None

    async def click(self, selector: str) -> None:
        await asyncio.to_thread(self.browser.execute_script, "document.querySelector(arguments[0]).click()", selector)

    async def say(self, text: str) -> None:
        await self.type(text)
        await self.click("#send")

    async def type(self, text: str) -> None:
        await asyncio.to_thread(self.browser.find_element("id", "draft").send_keys, text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with start_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve files; gives their origin, which is another one than the gateway's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
async def chat(browser, redis_url, redis_client, tmp_path, monkeypatch):
    """The page, open and empty, and the model behind it."""
    (tmp_path / "index.html").write_text(HTML)
    await bundle_page(JS / "chat.jsx", tmp_path / "chat.js")
    model = Speaker(may_end=asyncio.Event())
    with served(tmp_path) as origin:
        monkeypatch.setenv("LGRQ_CORS_ORIGINS", origin)
        async with serving_graphs(redis_url, redis_client, {"chat": chat_with(model)}) as sdk:
            page = Page(browser)
            await page.open(f"{origin}/?url={sdk.http.client.base_url}")
            await page.shows(state="idle")
            yield page, model, sdk
            await page.open("about:blank")


async def test_tokens_arrive_one_by_one_and_a_reload_comes_back_to_the_run(chat):
    page, model, _ = chat
    await page.say("hi")
    await page.shows("hi", "answer 1", state="busy")
    await page.reload()
    await page.shows("hi", "answer 1", state="busy")
    model.may_end.set()
    await page.shows("hi", "answer 1 to hi", state="idle")
    await page.reload()
    await page.shows("hi", "answer 1 to hi", state="idle")
    assert model.answers == 1
    assert errors(page.browser) == []


async def test_turn_is_repeated_or_edited_on_a_branch_of_its_own(chat):
    page, model, sdk = chat
    model.may_end.set()
    await page.say("hi")
    await page.shows("hi", "answer 1 to hi", state="idle")
    await page.click(".ai .again")
    await page.shows("hi", "answer 2 to hi", state="idle")
    await page.click(".ai .branch")
    await page.shows("hi", "answer 1 to hi", state="idle")
    await page.type("bye")
    await page.click(".human .edit")
    await page.shows("bye", "answer 3 to bye", state="idle")
    await page.say("more")
    await page.shows("bye", "answer 3 to bye", "more", "answer 4 to more", state="idle")
    await page.click(".human .branch")
    await page.shows("hi", "answer 2 to hi", state="idle")
    picture(page.browser, "use_stream")
    (thread,) = await sdk.threads.search()
    assert len(await sdk.runs.list(thread["thread_id"])) == 4
    assert errors(page.browser) == []

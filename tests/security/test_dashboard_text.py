"""Data that a user, a graph or a writer to Redis chose never run as code in the dashboard, in a real browser."""

import asyncio
import json
import threading
from base64 import b64encode
from contextlib import contextmanager
from urllib.parse import quote
from zlib import compress

import pytest
from redis import Redis
from werkzeug.serving import make_server

from langgraph_rq import Client
from tests import fleet
from tests.browsers import errors, needs_chromium, picture, start_browser, until
from tests.dashboards import dashboard_app

pytestmark = needs_chromium

PASSWORD = "horse"
IMAGE = "<img src=x onerror=window.ran=1>"
SCRIPT = "<script>window.ran=1</script>"
IN_SCRIPT = "');window.ran=1;('"
IN_ATTRIBUTE = '" onmouseover=window.ran=1 autofocus onfocus=window.ran=1 x="'
HOSTILE = f"{IMAGE}{SCRIPT}{IN_SCRIPT}{IN_ATTRIBUTE}"
QUEUE = f"{IMAGE}{IN_SCRIPT}{IN_ATTRIBUTE}"
"""Without a slash, since it stands in a path."""
JOB = {
    "data": json.dumps(["worker.run_task", None, [{"thread_id": HOSTILE}], {}]),
    "created_at": "2026-11-22T00:00:00.000000Z",
    "status": "failed",
    "origin": HOSTILE,
    "description": HOSTILE,
    "meta": f'{{"note": "{IMAGE}"}}',
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with start_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@contextmanager
def served(app):
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://admin:{PASSWORD}@127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def url(redis_url):
    with (
        Redis.from_url(redis_url) as client,
        dashboard_app(client, "unix://***@/redis.sock", PASSWORD) as app,
        served(app) as url,
    ):
        yield url


@pytest.fixture
def planted(redis_url):
    """A job, two queues and a worker, as a writer to Redis may make them."""
    with Redis.from_url(redis_url) as redis:
        redis.hset("rq:job:planted", mapping=JOB)
        redis.xadd("rq:results:planted", {"type": 2, "exc_string": b64encode(compress(HOSTILE.encode()))})
        redis.zadd(f"rq:failed:{HOSTILE}", {"planted": 4102444800})
        redis.sadd("rq:queues", f"rq:queue:{HOSTILE}", f"rq:queue:{QUEUE}")
        redis.sadd("rq:workers", f"rq:worker:{HOSTILE}")
        fields = {"birth": "2026-11-22T00:00:00.000000Z", "current_job": "planted", "queues": HOSTILE, "state": "busy"}
        redis.hset(f"rq:worker:{HOSTILE}", mapping=fields)


def show(browser, url, shown, name):
    """Open a page and wait until it shows `shown`; no script of the data has run, and nothing was refused."""
    errors(browser)
    browser.get(url)
    until(browser, lambda: shown in browser.find_element("tag name", "body").text)
    picture(browser, name)
    assert browser.execute_script("return window.ran") is None
    assert (
        browser.execute_script("return document.querySelectorAll('.container img, [onerror], [onfocus]').length") == 0
    )
    assert [line for line in errors(browser) if "favicon" not in line] == []


async def test_task_of_a_hostile_user_whose_graph_fails_is_text(browser, url, redis_url):
    def node(state):
        raise ValueError(HOSTILE)

    with Client(redis_url) as client:
        async with fleet.worker(redis_url, {"assistant": fleet.one_node_graph(node)}, burst=False):
            task_id = client.submit({"query": IMAGE}, user_id=IMAGE).task_id
            await asyncio.to_thread(client.wait, task_id, 20)
    with Redis.from_url(redis_url) as redis:
        assert redis.hget(f"rq:job:{task_id}", "description") == f"assistant {task_id}".encode()
    show(browser, f"{url}/0/view/job/{task_id}", IMAGE, "job")
    show(browser, f"{url}/0/view/jobs/agent_tasks/failed/8/asc/1", IMAGE, "jobs")


@pytest.mark.usefixtures("planted")
def test_names_of_queues_and_workers_are_text(browser, url):
    show(browser, f"{url}/", HOSTILE, "queues")
    show(browser, f"{url}/0/view/workers", HOSTILE, "workers")
    show(browser, f"{url}/0/view/job/planted", HOSTILE, "planted")
    show(browser, f"{url}/0/view/jobs/{quote(QUEUE, safe='')}/queued/8/asc/1", QUEUE, "planted-queue")


def test_markup_that_got_into_a_page_still_runs_nothing(browser, url):
    browser.get(f"{url}/")
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', arguments[0]); $('body').append(arguments[0])", HOSTILE
    )
    until(browser, lambda: len(browser.find_elements("css selector", "img[src=x]")) == 2)
    until(browser, lambda: any("Content Security Policy" in line for line in errors(browser)))
    assert browser.execute_script("return window.ran") is None


def test_each_answer_has_a_nonce_of_its_own(redis_client):
    with dashboard_app(redis_client, "redis", PASSWORD) as app:
        answers = [app.test_client().get("/", auth=("admin", PASSWORD)) for _ in range(2)]
    policies = [answer.headers["Content-Security-Policy"] for answer in answers]
    assert policies[0] != policies[1]
    assert not any("unsafe" in policy for policy in policies)

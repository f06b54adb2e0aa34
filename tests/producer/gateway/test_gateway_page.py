"""The page for people, in a real browser."""

import pytest
from redis import Redis
from rq.suspension import resume, suspend

from langgraph_rq.producer.gateway.admission.api_keys import make_key
from tests.browsers import errors, needs_chromium, picture, start_browser, until
from tests.gateways import start_gateway

pytestmark = needs_chromium

KEY, LINE = make_key("acme")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with start_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def url(installation, tmp_path_factory):
    environment = {**installation.environment, "LGRQ_GATEWAY_WITHOUT_KEYS": "false", "LGRQ_GATEWAY_KEYS": LINE}
    with start_gateway(tmp_path_factory.mktemp("page"), environment) as gateway:
        gateway.wait_until_ready()
        yield gateway.url


@pytest.fixture
def page(browser, url):
    browser.get(url)
    if shown(browser, "key-form"):
        type_into(browser, "key", KEY)
        browser.find_element("css selector", "#key-form button").click()
        until(browser, lambda: not shown(browser, "key-form"))
    return browser


def shown(browser, element_id) -> bool:
    return browser.find_element("id", element_id).is_displayed()


def text(browser, element_id) -> str:
    return browser.find_element("id", element_id).text


def type_into(browser, element_id, value):
    field = browser.find_element("id", element_id)
    field.clear()
    field.send_keys(value)


def ask(browser, query):
    type_into(browser, "query", query)
    browser.find_element("id", "send").click()


def test_page_asks_for_a_key_and_remembers_it_in_the_tab(browser, url):
    browser.get(url)
    browser.execute_script("sessionStorage.clear()")
    browser.get(url)
    until(browser, lambda: shown(browser, "key-form"))
    picture(browser, "key")
    type_into(browser, "key", KEY)
    browser.find_element("css selector", "#key-form button").click()
    until(browser, lambda: not shown(browser, "key-form"))
    browser.get(url)
    until(browser, lambda: text(browser, "depth") not in ("", "\u2013"))
    assert not shown(browser, "key-form")
    assert not shown(browser, "workers"), "a tenant sees its own part of the fleet only"


def test_question_is_queued_streams_its_tokens_and_ends_with_the_answer(page, installation, disturbed_model):
    disturbed_model.admin.set_latency(1.0)
    with Redis.from_url(installation.redis_url) as redis:
        suspend(redis)
        try:
            ask(page, "What is a lease?")
            until(page, lambda: text(page, "state") == "queued" and "1 open" in text(page, "depth"))
            picture(page, "queued")
        finally:
            resume(redis)
    until(page, lambda: len(text(page, "answer")) > 20)
    assert "streaming" in page.find_element("id", "answer").get_attribute("class")
    picture(page, "streaming")
    until(page, lambda: text(page, "state") == "success")
    picture(page, "done")
    assert len(text(page, "answer")) > 20
    assert [node.text for node in page.find_elements("css selector", "#nodes li.done")][-1] == "finish"
    assert "tokens" in text(page, "facts")
    until(page, lambda: text(page, "task-id") in text(page, "recent"))


def test_failure_is_shown_with_its_reason(page, disturbed_model):
    disturbed_model.admin.set_faults([{"fault": "400"}])
    ask(page, "What is a lease?")
    until(page, lambda: text(page, "state") == "error")
    picture(page, "error")
    assert text(page, "problem")


def test_refused_question_is_a_problem_and_no_task(page):
    page.execute_script("document.getElementById('query').value = 'bell \\u0007'")
    page.find_element("id", "send").click()
    until(page, lambda: shown(page, "problem"))
    assert "control characters" in text(page, "problem")


def test_question_to_a_gateway_that_is_away_says_so(page):
    page.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        ask(page, "What is a lease?")
        until(page, lambda: shown(page, "problem"))
    finally:
        page.delete_network_conditions()
    assert text(page, "problem") == "The gateway cannot be reached."


def test_stop_cancels_the_task(page, disturbed_model):
    disturbed_model.admin.set_latency(30.0)
    ask(page, "What is a lease?")
    until(page, lambda: shown(page, "cancel"))
    page.find_element("id", "cancel").click()
    until(page, lambda: text(page, "state") == "cancelled")


def test_recent_task_is_shown_again_when_it_is_clicked(page):
    ask(page, "What is a lease?")
    until(page, lambda: text(page, "state") == "success")
    answer, task_id = text(page, "answer"), text(page, "task-id")
    page.refresh()
    until(page, lambda: task_id in text(page, "recent"))
    page.find_element("css selector", "#recent tbody tr").click()
    until(page, lambda: text(page, "answer") == answer)


def test_recent_task_is_reached_and_shown_with_the_keyboard(page):
    ask(page, "What is a lease?")
    until(page, lambda: text(page, "state") == "success")
    task_id = text(page, "task-id")
    page.refresh()
    until(page, lambda: task_id in text(page, "recent"))
    page.execute_script("document.querySelector('#recent tbody button').focus()")
    looks = "return performance.getEntriesByType('resource').filter((one) => one.name.includes('/tasks?')).length"
    before = page.execute_script(looks)
    until(page, lambda: page.execute_script(looks) >= before + 2)  # the list is asked for again, and keeps the focus
    assert page.switch_to.active_element.text == task_id
    page.switch_to.active_element.send_keys("\n")
    until(page, lambda: text(page, "task-id") == task_id and text(page, "answer"))


def test_page_needs_nothing_from_elsewhere_and_makes_no_error(page):
    errors(page)  # forgets what earlier tests provoked
    page.refresh()
    ask(page, "What is a lease?")
    until(page, lambda: text(page, "state") == "success")
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert loaded
    assert all(name.startswith(page.current_url) for name in loaded)
    assert errors(page) == []

"""A webhook goes to the one public https address that was chosen, signed, and nowhere else."""

import hmac
import json
import shutil
import ssl
import subprocess
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from redis import Redis

from langgraph_rq.shared.budget.hourly_cost import HOURS, hourly_cost_call
from langgraph_rq.shared.budget.token_budget import ALERTS
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.worker.telemetry.alerts import GROUP, AlertWatch
from langgraph_rq.worker.telemetry.webhook import Webhook, is_public
from tests.waiting import until_sync

HOUR_MS = 3_600_000
NOON_MS = 20_000 * 24 * HOUR_MS + 12 * HOUR_MS

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")


class Listener:
    """An https server on localhost; answers the statuses in `answers` first, then 204."""

    def __init__(self, folder) -> None:
        self.requests: list[tuple[str, dict, bytes]] = []
        self.answers: list[int] = []
        certificate, key = folder / "cert.pem", folder / "key.pem"
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        files = ("-keyout", str(key), "-out", str(certificate))
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *files, *subject]
        subprocess.run(command, check=True, capture_output=True)
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.requests.append((self.path, dict(self.headers), body))
                self.send_response(listener.answers.pop(0) if listener.answers else 204)
                self.send_header("Location", "https://elsewhere.example/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}/hooks/1?a=b"
        self.context = ssl.create_default_context(cafile=certificate)

    def webhook(self, **options) -> Webhook:
        options = {"accepts": lambda _address: True, "context": self.context, **options}
        return Webhook(self.url, ["localhost"], "a key", **options)


@pytest.fixture(scope="module")
def https(tmp_path_factory):
    listener = Listener(tmp_path_factory.mktemp("https"))
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()
    thread.join()


@pytest.fixture
def listener(https):
    https.requests.clear()
    https.answers.clear()
    return https


@needs_openssl
def test_document_is_posted_and_signed(listener):
    assert listener.webhook().post({"text": "hello"}) == 204
    ((path, headers, body),) = listener.requests
    assert (path, json.loads(body)) == ("/hooks/1?a=b", {"text": "hello"})
    at, signature = (part.partition("=")[2] for part in headers["LGRQ-Signature"].split(","))
    assert signature == hmac.new(b"a key", f"{at}.".encode() + body, sha256).hexdigest()


@needs_openssl
def test_redirect_is_not_followed(listener):
    listener.answers.append(302)
    assert listener.webhook().post({}) == 302
    assert len(listener.requests) == 1


@needs_openssl
def test_name_of_a_private_address_is_not_connected_to(listener):
    with pytest.raises(OSError, match=r"expected localhost to have public addresses only, got: (127\.0\.0\.1|::1)"):
        listener.webhook(accepts=is_public).post({})
    assert listener.requests == []


@needs_openssl
def test_certificate_is_verified(listener):
    with pytest.raises(OSError, match="certificate verify failed"):
        listener.webhook(context=None).post({})
    assert listener.requests == []


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "::1", "fe80::1", "224.0.0.1"]
)
def test_addresses_of_ones_own_network_are_not_public(address):
    assert not is_public(address)


def test_addresses_of_the_internet_are_public():
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:220:1::1")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://hooks.example/1", "expected an https:// URL"),
        ("https://ann:pw@hooks.example/1", "without credentials"),
        ("https://evil.example/1", "expected a host of LGRQ_ALERT_WEBHOOK_HOSTS, got: evil.example"),
    ],
)
def test_other_addresses_are_refused_when_the_worker_starts(url, says):
    with pytest.raises(SettingsError, match=says):
        Webhook(url, ["hooks.example"])


def add_alert(redis_client, **changed: str) -> str:
    fields = {"scope": "global", "subject": "", "unit": "tokens", "percent": "80", "used": "800", "limit": "1000"}
    return redis_client.xadd(ALERTS, {**fields, "day": "20000", **changed})


@pytest.fixture
def watch(redis_url, listener, monkeypatch):
    monkeypatch.setattr("langgraph_rq.worker.telemetry.alerts._RETRY_AFTER_MS", 20)
    monkeypatch.setattr("langgraph_rq.worker.telemetry.alerts._BLOCK_MS", 200)
    watch = AlertWatch(redis_url, "me", listener.webhook(), 0)
    watch.start()
    yield watch
    watch.stop()


@needs_openssl
def test_alert_of_the_budget_is_posted_once(redis_client, listener, watch):
    entry_id = add_alert(redis_client)
    until_sync(lambda: listener.requests)
    until_sync(lambda: redis_client.xpending(ALERTS, GROUP)["pending"] == 0)
    ((_, _, body),) = listener.requests
    told = json.loads(body)
    assert (told["id"], told["event"], told["percent"]) == (entry_id, "budget.alerted", 80)
    assert told["text"] == "80 % of the daily tokens budget of all workers is used: 800 of 1,000"


@needs_openssl
def test_alert_that_could_not_be_posted_is_posted_again(redis_client, listener, watch):
    listener.answers[:] = [500, 429]
    add_alert(redis_client, unit="cost", used="1500000000", limit="2000000000")
    until_sync(lambda: len(listener.requests) == 3)
    until_sync(lambda: redis_client.xpending(ALERTS, GROUP)["pending"] == 0)
    assert json.loads(listener.requests[-1][2])["text"].endswith("$1.50 of $2.00")


@needs_openssl
def test_alert_that_is_refused_is_not_posted_again(redis_client, listener, watch):
    listener.answers.append(410)
    add_alert(redis_client)
    until_sync(lambda: listener.requests and redis_client.xpending(ALERTS, GROUP)["pending"] == 0)
    assert len(listener.requests) == 1


@needs_openssl
def test_entry_that_is_no_alert_is_dropped_and_the_next_one_posted(redis_client, listener, watch):
    redis_client.xadd(ALERTS, {"scope": "global"})
    entry_id = add_alert(redis_client)
    until_sync(lambda: listener.requests and redis_client.xpending(ALERTS, GROUP)["pending"] == 0)
    assert [json.loads(body)["id"] for _, _, body in listener.requests] == [entry_id]


@needs_openssl
def test_alerts_are_still_posted_after_redis_was_emptied(redis_client, listener, watch):
    add_alert(redis_client)
    until_sync(lambda: listener.requests)
    redis_client.flushall()
    add_alert(redis_client, percent="90")
    until_sync(lambda: len(listener.requests) == 2)


def spend(redis_client, hours: list[int], start_ms: int = NOON_MS) -> list:
    """Spend so many nano-dollars hour by hour, looking once in each; answers what was found."""
    found, today, used = [], None, 0
    for number, cost in enumerate(hours):
        now_ms = start_ms + number * HOUR_MS
        day = now_ms // (24 * HOUR_MS)
        used = cost if day != today else used + cost
        today = day
        redis_client.hset(f"agent:budget:{day}:global", "used_cost", used)
        found.append(scripts.run_sync(redis_client, hourly_cost_call(now_ms=now_ms)))
    return found


@pytest.fixture
def raw(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


def test_hour_that_costs_more_than_three_times_the_mean_is_told_once(raw):
    *usual, far = spend(raw, [100] * 30 + [301])
    assert not any(hour.is_alert for hour in usual)
    assert (far.cost_nano_usd, far.mean_nano_usd, far.is_alert) == (301, 100, True)
    again = scripts.run_sync(raw, hourly_cost_call(now_ms=NOON_MS + 30 * HOUR_MS + 60_000))
    assert (again.cost_nano_usd, again.is_alert) == (301, False)
    ((_, fields),) = raw.xrange(ALERTS)
    assert (fields[b"unit"], fields[b"percent"], fields[b"limit"]) == (b"hour_cost", b"301", b"300")


def test_hour_of_three_times_the_mean_is_not_told(raw):
    assert not spend(raw, [100] * 30 + [300])[-1].is_alert


def test_first_day_has_no_usual_cost(raw):
    assert not any(hour.is_alert for hour in spend(raw, [1] * 23 + [1_000]))


def test_mean_is_that_of_the_last_seven_days(raw):
    *_, last = spend(raw, [1_000] * 24 + [10] * 168 + [31])
    assert (last.mean_nano_usd, last.is_alert) == (10, True)
    assert 0 < raw.pttl(HOURS) <= 8 * 24 * HOUR_MS


def test_what_was_spent_around_midnight_belongs_to_the_new_day_and_the_rest_of_the_old(raw):
    evening_ms = NOON_MS + 11 * HOUR_MS
    raw.hset("agent:budget:20000:global", "used_cost", 100)
    scripts.run_sync(raw, hourly_cost_call(now_ms=evening_ms))
    raw.hset("agent:budget:20000:global", "used_cost", 130)
    raw.hset("agent:budget:20001:global", "used_cost", 5)
    assert scripts.run_sync(raw, hourly_cost_call(now_ms=evening_ms + HOUR_MS)).cost_nano_usd == 35

import json
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner
from redis import Redis

from langgraph_rq.producer.cli.main import main
from langgraph_rq.producer.doctor.command import CHECKLIST
from langgraph_rq.shared.announcements.guarded_models import GuardedModel, GuardedModels
from langgraph_rq.shared.budget.policy import set_limit_call
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.connections.script_cache import load_missing
from langgraph_rq.shared.connections.scripts import run_sync
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.deployment import make_secrets, role_url
from tests.installation import clean_environment
from tests.waiting import until_sync

GOOD = {
    "LGRQ_BUDGET_DAILY_USD": "100",
    "LGRQ_BUDGET_USER_DAILY_TOKENS": "100000",
    "LGRQ_REDACTION_MODE": "mask",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
}
GUARDED = GuardedModels(
    {"openai/small": GuardedModel(3, ("large",)), "openai/large": GuardedModel(3, ("small",))}, ("small", "large")
)
ANSWERS = {
    "/health": (200, {}),
    "/ready": (200, {}),
    "/usage": (401, {}),
    "/": (401, {}),
    "/api/v1/targets": (
        200,
        {
            "data": {
                "activeTargets": [
                    {"scrapeUrl": "https://gateway/metrics", "health": "up", "labels": {"job": "gateway"}},
                    {"scrapeUrl": "http://worker/metrics", "health": "up", "labels": {"job": "worker"}},
                ]
            }
        },
    ),
    "/api/v1/alertmanagers": (
        200,
        {"data": {"activeAlertmanagers": [{"url": "http://alertmanager:9093/api/v2/alerts"}]}},
    ),
    "/api/v1/rules": (
        200,
        {"data": {"groups": [{"rules": [{"type": "alerting", "name": "AgentBudgetSpent"}]}]}},
    ),
}


@pytest.fixture
def web():
    """Gateway, Prometheus and dashboard in one; answers can be changed."""
    answers = dict(ANSWERS)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        answers["url"] = f"http://127.0.0.1:{server.server_port}"
        yield answers
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    return make_secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def producer_url(secrets):
    """A Redis with the shipped users and two workers, as its producer sees it."""
    with EmbeddedRedis(aclfile=str(secrets / "users.acl"), maxmemory="200mb") as server:
        with Redis.from_url(role_url(server, "worker", secrets)) as client:
            client.zadd("agent:workers", {"one": 9e12, "two": 9e12})
            for worker in ("one", "two"):
                client.hset(f"rq:worker:{worker}", mapping={"graphs": ",g,", "models": GUARDED.announcement()})
            load_missing(client)
            note_memory(client, {24: 100_000_000})
        yield role_url(server, "producer", secrets)


THIN = """
import importlib.metadata, importlib.util, sys

found, spec = importlib.metadata.distribution, importlib.util.find_spec

def distribution(name):
    if name == "rq":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.distribution = distribution
importlib.util.find_spec = lambda name, *more: None if name == "re2" else spec(name, *more)
from langgraph_rq.producer.cli.main import main
main(["doctor", "--json"])
"""


def test_installation_of_the_client_alone_is_examined_without_what_it_does_not_have(redis_url):
    environment = clean_environment({"REDIS_URL": redis_url})
    done = subprocess.run(
        [sys.executable, "-P", "-c", THIN], env=environment, capture_output=True, text=True, check=False
    )
    found = {one["check"]: (one["level"], one["reason"]) for one in map(json.loads, done.stdout.splitlines())}
    assert (done.returncode, done.stderr) == (2, "")
    assert found["structured logs"] == ("warn", "not checked: neither worker nor gateway is installed here")
    level, reason = found["versions"]
    assert (level, " rq " in reason) == ("pass", False)


def note_memory(client, used):
    """Note what Redis used so many hours ago, as the sweeper does."""
    now_s, _ = client.time()
    client.delete("agent:memory")
    client.hset("agent:memory", mapping={now_s // 3600 - hours: bytes_ for hours, bytes_ in used.items()})


@pytest.fixture
def examine(monkeypatch, tmp_path, web):
    """Run the doctor; answers exit code and level, reason and fix by check."""
    monkeypatch.chdir(tmp_path)

    def run(url, *arguments, **environment):
        secret = tmp_path / "redis_url"
        secret.write_text(url)
        audit = tmp_path / "audit_key"
        audit.write_text("a-key-of-32-characters-and-more-")
        workers = tmp_path / "audit_worker_key"
        workers.write_text("a-key-of-the-workers-and-longer-")
        signing = tmp_path / "task_keys"
        signing.write_text(f"default:1:{'x' * 32}")
        keys = {
            "LGRQ_AUDIT_KEY_FILE": str(audit),
            "LGRQ_AUDIT_WORKER_KEY_FILE": str(workers),
            "LGRQ_TASK_KEYS_FILE": str(signing),
        }
        given = {"REDIS_URL_FILE": str(secret), **keys, **environment}
        urls = [part for name in ("gateway", "prometheus", "dashboard") for part in (f"--{name}", web["url"])]
        result = CliRunner().invoke(main, ["doctor", "--json", *(arguments or urls)], env=given)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        return result.exit_code, {line["check"]: line for line in lines}, result.stderr

    return run


def test_good_set_up_passes_every_check(examine, producer_url):
    code, checks, _ = examine(producer_url, **GOOD)
    assert {name: check["reason"] for name, check in checks.items() if check["level"] != "pass"} == {}
    assert code == 0
    assert len(checks) == sum(len(area) for area in CHECKLIST.values())


def test_list_for_people_ends_with_a_tally(redis_url):
    *rows, _, tally = CliRunner().invoke(main, ["doctor"], env={"REDIS_URL": redis_url}).stdout.splitlines()
    found = Counter(row.split()[0] for row in rows)
    assert min(found["pass"], found["warn"], found["fail"]) > 0
    assert tally.strip() == f"{found['pass']} passed, {found['warn']} to decide, {found['fail']} failed"


def test_audit_log_that_one_key_signs_is_a_warning(examine, producer_url):
    _, checks, _ = examine(producer_url, **{**GOOD, "LGRQ_AUDIT_WORKER_KEY_FILE": ""})
    assert (checks["audit log"]["level"], checks["audit log"]["reason"]) == ("warn", "one key signs the audit log")


def test_audit_log_is_found_without_its_key(examine, producer_url, secrets):
    without_key = {**GOOD, "LGRQ_AUDIT_KEY_FILE": "", "LGRQ_AUDIT_WORKER_KEY_FILE": ""}
    _, checks, _ = examine(producer_url, **without_key)
    assert (checks["audit log"]["level"], checks["audit log"]["reason"]) == ("warn", "there is no audit log")
    with Redis.from_url(producer_url) as client:
        client.xadd("agent:audit", {"writer": "w"})
        _, checks, _ = examine(producer_url, **without_key)
        client.delete("agent:audit")
    assert checks["audit log"]["level"] == "warn"
    assert checks["audit log"]["reason"].startswith("there is an audit log")


def test_alerts_that_reach_no_alertmanager_fail(examine, producer_url, web):
    web["/api/v1/alertmanagers"] = (200, {"data": {"activeAlertmanagers": []}})
    _, checks, _ = examine(producer_url, **GOOD)
    assert (checks["alerts"]["level"], checks["budget alerts"]["level"]) == ("fail", "warn")
    assert "no Alertmanager" in checks["alerts"]["reason"]


def test_tenant_whose_tasks_no_key_signs_fails(examine, producer_url, tmp_path):
    keys = tmp_path / "gateway_keys"
    keys.write_text(f"default:{'0' * 64}\nacme:{'1' * 64}\n")
    _, checks, _ = examine(producer_url, **GOOD, LGRQ_GATEWAY_KEYS_FILE=str(keys))
    assert (checks["signed tasks"]["level"], checks["signed tasks"]["reason"]) == (
        "fail",
        "no key signs the tasks of acme",
    )


def test_limits_are_the_fleets_and_not_this_machines(examine):
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis:
        run_sync(redis, set_limit_call(BudgetLimits(), "global", tokens=None))
        _, checks, _ = examine(server.url, **GOOD)
    assert (checks["daily budget"]["level"], checks["daily budget"]["reason"]) == ("fail", "no daily budget")


def test_bad_set_up_is_named_item_by_item(examine, web):
    web["/"] = (200, {})
    web["/usage"] = (200, {})
    bad = {
        "OPENAI_API_KEY": "sk-plain",
        "LGRQ_BUDGET_DAILY_TOKENS": "none",
        "LGRQ_BUDGET_REQUEST_TOKENS": "none",
        "LGRQ_GATEWAY_RATE": "none",
        "LGRQ_GATEWAY_HOST": "0.0.0.0",
    }
    with EmbeddedRedis(appendonly="no", **{"maxmemory-policy": "allkeys-lru", "lazyfree-lazy-expire": "no"}) as server:
        code, checks, _ = examine(server.url, **bad)
    assert code == 2
    assert {name for name, check in checks.items() if check["level"] == "fail"} == {
        "tasks persist",
        "checkpoints persist",
        "nothing is evicted",
        "secrets from files",
        "rate limiting",
        "TLS",
        "workers",
        "daily budget",
        "request limits",
        "limits per user",
        "Redis roles",
        "API keys",
        "dashboard",
    }
    assert all(check["fix"] for check in checks.values() if check["level"] != "pass")
    assert "OPENAI_API_KEY" in checks["secrets from files"]["reason"]
    assert "allkeys-lru" in checks["nothing is evicted"]["reason"]
    assert checks["freed in the background"]["level"] == "warn"


@pytest.mark.parametrize(
    ("replicas", "wanted", "level", "says"),
    [
        (0, "0", "fail", "a restart loses every task"),
        (0, "1", "fail", "0 of the 1 replicas that submits wait for are connected"),
        (1, "1", "warn", "if it and all replicas restart at once, every task is lost"),
    ],
)
def test_redis_without_an_append_only_file_needs_replicas_that_submits_wait_for(examine, replicas, wanted, level, says):
    at_once = {"repl-diskless-sync-delay": "0"}
    with EmbeddedRedis(tcp=True, appendonly="no", **at_once) as server, ExitStack() as stack:
        if replicas:
            port = server.url.rpartition(":")[2].partition("/")[0]
            replica = stack.enter_context(EmbeddedRedis(appendonly="no", replicaof=f"127.0.0.1 {port}"))
            with Redis.from_url(replica.url) as client:
                until_sync(lambda: client.info("replication")["master_link_status"] == "up")
        _, checks, _ = examine(server.url, LGRQ_SUBMIT_REPLICAS=wanted)
    assert checks["tasks persist"]["level"] == checks["checkpoints persist"]["level"] == level
    assert says in checks["tasks persist"]["reason"]


def test_user_that_the_append_only_file_is_read_as_must_have_every_right(examine, secrets, tmp_path):
    users = tmp_path / "users.acl"
    shipped = (secrets / "users.acl").read_text().splitlines()
    users.write_text("\n".join("user default off" if line.startswith("user default") else line for line in shipped))
    with EmbeddedRedis(aclfile=str(users)) as server:
        _, checks, _ = examine(role_url(server, "producer", secrets), **GOOD)
    assert {checks[name]["level"] for name in ("tasks persist", "checkpoints persist")} == {"fail"}
    assert "default" in checks["tasks persist"]["reason"]


def test_what_could_not_be_asked_is_a_warning_and_never_a_pass(examine, producer_url):
    code, checks, _ = examine(producer_url, "--json", **GOOD)
    unasked = {name for name, check in checks.items() if check["reason"] == "not checked"}
    assert unasked == {"metrics", "alerts", "health and readiness", "dashboard", "API keys"}
    assert code == 1


def test_parts_that_do_not_answer_are_a_fail(examine, producer_url):
    code, checks, _ = examine(
        producer_url, "--gateway", "http://127.0.0.1:1", "--prometheus", "http://127.0.0.1:1", **GOOD
    )
    assert code == 2
    assert checks["metrics"]["level"] == checks["health and readiness"]["level"] == "fail"


def test_target_that_is_down_is_named(examine, producer_url, web):
    down = {"scrapeUrl": "http://dead/metrics", "health": "down", "labels": {"job": "worker"}}
    web["/api/v1/targets"] = (200, {"data": {"activeTargets": [down]}})
    _, checks, _ = examine(producer_url, **GOOD)
    assert checks["metrics"]["reason"] == "Prometheus cannot scrape http://dead/metrics"


@pytest.mark.parametrize(
    ("host", "level"), [("localhost", "pass"), ("collector", "warn"), ("otel.example.org", "fail")]
)
def test_plain_http_is_judged_by_how_far_it_goes(examine, producer_url, host, level):
    _, checks, _ = examine(producer_url, **GOOD | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:4318"})
    assert checks["TLS"]["level"] == level


@pytest.mark.parametrize(
    ("used", "level"), [({24: 0.9}, "pass"), ({24: 0.1, 30: 0.9}, "warn"), ({7: 0.1, 3: 0.9}, "fail"), ({4: 0}, "warn")]
)
def test_days_until_redis_is_full_are_estimated_from_the_last_days_growth(examine, used, level):
    """`used` is so many hours ago, in parts of what is used now: a fifth of maxmemory, 85 % of which may be filled."""
    with EmbeddedRedis() as server, Redis.from_url(server.url) as client:
        examine(server.url, **GOOD)  # what it needs in Redis is there from now on
        now = client.info("memory")["used_memory"]
        client.config_set("maxmemory", 5 * now)
        note_memory(client, {hours: round(part * now) for hours, part in used.items()})
        _, checks, _ = examine(server.url, **GOOD)
    found = checks["memory growth"]
    assert found["level"] == level
    unknown = "not known yet how fast Redis fills up"
    assert found["reason"] == unknown if 4 in used else "submits are refused in" in found["reason"]


def test_days_until_the_checkpoints_redis_is_full_are_estimated_too(examine, producer_url):
    _, checks, _ = examine(producer_url, **GOOD)
    assert checks["memory growth of checkpoints"]["reason"] == "they are in the Redis of the queue"
    with EmbeddedRedis() as server, Redis.from_url(server.url) as client:
        now = client.info("memory")["used_memory"]
        client.config_set("maxmemory", 5 * now)
        note_memory(client, {24: round(0.1 * now)})
        _, checks, _ = examine(producer_url, **GOOD, LGRQ_CHECKPOINT_REDIS_URL=server.url)
    found = checks["memory growth of checkpoints"]
    assert found["level"] == "warn"
    assert found["reason"].startswith("The checkpoints' Redis has grown by ")
    assert found["reason"].endswith(" days, at 100 % of maxmemory")


def test_redis_that_does_not_grow_is_full_at_no_time(examine, producer_url):
    _, checks, _ = examine(producer_url, **GOOD)
    assert checks["memory growth"]["reason"] == "Redis has not grown within a day"


def test_redis_that_is_away_is_a_fail_of_each_check_that_asks_it(examine, tmp_path):
    code, checks, _ = examine(f"unix://{tmp_path}/nobody.sock")
    assert code == 2
    assert checks["tasks persist"]["reason"].startswith("Redis could not be asked")


@pytest.mark.parametrize("option", ["--gateway", "--prometheus", "--dashboard"])
@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://[::1", "http://host:port"])
def test_url_that_is_none_is_an_error(examine, producer_url, option, url):
    code, checks, said = examine(producer_url, option, url)
    assert (code, checks) == (2, {})
    assert said == f"error: {option}: expected http://host:port or https://host:port, got: {url}\n"


@pytest.fixture
def no_web_server():
    """The URL of a server that greets as SSH does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = Thread(target=greet)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_server_that_is_another_fails_the_checks_that_ask_it(examine, producer_url, web, no_web_server):
    web["/api/v1/targets"] = web["/api/v1/rules"] = (200, {"data": []})
    code, checks, _ = examine(producer_url, "--gateway", no_web_server, "--prometheus", web["url"], **GOOD)
    assert code == 2
    assert checks["health and readiness"]["reason"] == "could not be asked: it answers no HTTP: BadStatusLine"
    another = "could not be asked: expected Prometheus, got another server's answer to /api/v1/"
    assert [checks[name]["reason"] for name in ("metrics", "alerts")] == [another + "targets", another + "rules"]


def test_table_for_people_says_what_to_do(examine, redis_url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["doctor"], env={"REDIS_URL": redis_url})
    assert result.exit_code == 2
    assert "-> use the users of deploy/redis/users.acl" in " ".join(result.stdout.split())

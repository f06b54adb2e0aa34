"""`make compose-test`: run the system in containers; kill a worker, stop Redis, drain all workers.

Needs a Docker engine, docker-compose, openssl and Python, without packages. Containers, volumes and files have names
of their own and are removed at the end, also after a failure.
"""

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = "lgrq-compose-test"
TASKS = 200
WORKERS = 3


def log(text: str) -> None:
    print(f"compose-test: {text}", flush=True)  # noqa: T201


def until(what: str, condition: Callable[[], object], timeout_s: float = 90.0) -> object:
    """Wait until `condition` is true; connections that fail while services start are retried."""
    give_up_at = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < give_up_at:
        try:
            last = condition()
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.5)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}; last: {last}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stack:
    """The compose project and clients of its services."""

    def __init__(self, secrets: Path) -> None:
        self.secrets = secrets
        self.ports = {name: free_port() for name in ("GATEWAY", "DASHBOARD", "PROMETHEUS")}
        self.environment = {
            **os.environ,
            **{f"{name}_PORT": str(port) for name, port in self.ports.items()},
            "SECRETS": str(secrets),
            "OPENAI_BASE_URL": "http://model:8000/v1",
            # Few enough at once that the kill comes in the middle.
            "LGRQ_WORKER_CONCURRENCY": "10",
            "LGRQ_BUDGET_USER_DAILY_TOKENS": "1000000",
            "LGRQ_GATEWAY_RATE": "6000/minute",
        }
        self.command = _compose()
        self.tls = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
        self.key = (secrets / "gateway_api_key").read_text().strip()

    def compose(self, *arguments: str, capture: bool = False, check: bool = True) -> str:
        command = [*self.command, "-p", PROJECT, "-f", str(ROOT / "compose.yaml"), "--profile", "demo", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, check=check, text=True, stdout=subprocess.PIPE if capture else None
        )
        return done.stdout or ""

    def gateway(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        connection = http.client.HTTPSConnection("localhost", self.ports["GATEWAY"], context=self.tls, timeout=90)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")

    def plain(self, service: str, path: str, authorization: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", self.ports[service], timeout=30)
        connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def _compose() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], check=False, capture_output=True)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


def docker(*arguments: str) -> list[str]:
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.split()


def left_over() -> list[str]:
    label = f"label=com.docker.compose.project={PROJECT}"
    return [
        *docker("ps", "--all", "--quiet", "--filter", label),
        *docker("volume", "ls", "--quiet", "--filter", label),
        *docker("network", "ls", "--quiet", "--filter", label),
    ]


@contextmanager
def running() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([ROOT / "deploy/make-secrets.sh", directory], check=True, stdout=subprocess.DEVNULL)
        stack = Stack(Path(directory))
        try:
            stack.compose("up", "--build", "--detach", "--scale", f"worker={WORKERS}")
            yield stack
        except BaseException:
            stack.compose("logs", "--tail", "30")
            raise
        finally:
            stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")
    assert not left_over(), f"expected `down` to leave nothing, got: {left_over()}"
    log("down left nothing")


def submit_and_kill(stack: Stack) -> None:
    until("the gateway and three workers", lambda: workers_ready(stack) == WORKERS)
    with ThreadPoolExecutor(16) as threads:
        queries = ({"input": {"query": f"What is {n}?"}, "user_id": f"user-{n % 10}"} for n in range(TASKS))
        answers = list(threads.map(lambda body: stack.gateway("POST", "/tasks", body), queries))
        assert {status for status, _ in answers} == {202}, answers[:3]
        ids = [answer["task_id"] for _, answer in answers]
        assert len(set(ids)) == TASKS
        log(f"{TASKS} tasks accepted over HTTPS")

        victim = docker("ps", "--quiet", "--filter", f"name={PROJECT}.worker.2")[0]
        docker("kill", "--signal", "KILL", victim)
        log(f"killed worker container {victim}")
        results = [
            document
            for _, document in threads.map(lambda id_: stack.gateway("GET", f"/tasks/{id_}/result?wait=60"), ids)
        ]
    assert [result["status"] for result in results] == ["success"] * TASKS, [
        result for result in results if result.get("status") != "success"
    ][:3]
    again = sum(result["metadata"]["attempts"] > 1 for result in results)
    assert again, "expected the kill to hit running tasks, got: none that ran twice"
    log(f"all {TASKS} succeeded; {again} of them went on elsewhere after the kill")


def workers_ready(stack: Stack) -> int:
    status, ready = stack.gateway("GET", "/ready")
    return int(ready["parts"]["workers"]["detail"].split()[0]) if status == 200 else 0


def check_dashboard(stack: Stack) -> None:
    def basic(password: str) -> str:
        return "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()

    password = (stack.secrets / "dashboard_password").read_text().strip()
    assert stack.plain("DASHBOARD", "/")[0] == 401
    assert stack.plain("DASHBOARD", "/", basic("wrong"))[0] == 401
    status, page = stack.plain("DASHBOARD", "/0/data/queues.json", basic(password))
    assert status == 200
    finished = sum(queue["finished_job_registry_count"] for queue in json.loads(page)["queues"])
    assert finished == TASKS, finished
    log("the dashboard answers with its password only, and shows the finished jobs")


def check_prometheus(stack: Stack) -> None:
    def targets() -> list[str]:
        found = json.loads(stack.plain("PROMETHEUS", "/api/v1/targets")[1])["data"]["activeTargets"]
        return sorted(f"{target['labels']['job']} {target['health']}" for target in found)

    expected = ["gateway up", *["worker up"] * WORKERS]
    until("all of Prometheus' targets", lambda: targets() == expected, 120)
    rules = json.loads(stack.plain("PROMETHEUS", "/api/v1/rules")[1])["data"]["groups"]
    assert rules
    log(f"Prometheus: {', '.join(targets())}; {sum(len(group['rules']) for group in rules)} rules loaded")


def check_acl_log(stack: Stack) -> None:
    script = (
        "REDISCLI_AUTH=$(cat /run/secrets/redis_admin_password) "
        "redis-cli --tls --cacert /run/secrets/ca.crt --user admin acl log"
    )
    log = stack.compose("exec", "-T", "redis", "sh", "-c", script, capture=True).strip()
    assert not log, f"expected an empty ACL LOG, got:\n{log}"
    log("ACL LOG is empty")


def workers() -> list[str]:
    return docker("ps", "--quiet", "--filter", f"name={PROJECT}.worker")


def probe(worker: str, path: str) -> tuple[int, str]:
    """Request a path of a worker's own port from inside its container, because the port is not published."""
    script = (
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9100, timeout=10); "
        f"c.request('GET', '{path}'); a = c.getresponse(); print(a.status, a.read().decode())"
    )
    status, *body = docker("exec", worker, "python", "-c", script)
    return int(status), " ".join(body)


def submit(stack: Stack, name: str, count: int = 30) -> list[str]:
    ids = [f"{name}-{n}" for n in range(count)]
    for id_ in ids:
        body = {"task_id": id_, "input": {"query": f"Design a plan for {id_}"}, "user_id": id_}
        assert stack.gateway("POST", "/tasks", body)[0] == 202
    return ids


def succeeded(stack: Stack, ids: list[str]) -> list[dict]:
    results = [stack.gateway("GET", f"/tasks/{id_}/result?wait=60")[1] for id_ in ids]
    assert [result.get("status") for result in results] == ["success"] * len(ids), results
    return results


def check_outage(stack: Stack) -> None:
    """Stop Redis for longer than a lease with tasks in flight: no worker ends, no task is lost."""
    healthy = ("ps", "--quiet", "--filter", f"name={PROJECT}.worker", "--filter", "health=healthy")
    until("healthy workers", lambda: len(docker(*healthy)) == WORKERS)
    ours = workers()
    life = ("inspect", "--format", "{{.State.StartedAt}} {{.RestartCount}}", *ours)
    before = docker(*life)
    ids = submit(stack, "outage")
    stack.compose("stop", "redis")
    until("the leases to be over", lambda: all("lease" in probe(worker, "/ready")[1] for worker in ours))
    assert {probe(worker, path)[0] for worker in ours for path in ("/health", "/metrics")} == {200}
    assert {probe(worker, "/ready")[0] for worker in ours} == {503}
    stack.compose("start", "redis")
    back_at = time.monotonic()
    until("workers that are ready again", lambda: {probe(worker, "/ready")[0] for worker in ours} == {200}, 20)
    took_s = time.monotonic() - back_at
    succeeded(stack, ids)
    assert docker(*life) == before
    log(f"Redis was away: workers went on, ready again within {took_s:.1f} s; {len(ids)} tasks in flight succeeded")


def check_drain(stack: Stack) -> None:
    ours = workers()
    ids = submit(stack, "drain")
    began = time.monotonic()
    stack.compose("stop", "worker")
    took_s = time.monotonic() - began
    codes = docker("inspect", "--format", "{{.State.ExitCode}}", *ours)
    assert codes == ["0"] * WORKERS, codes
    stack.compose("start", "worker")
    attempts = {result["metadata"]["attempts"] for result in succeeded(stack, ids)}
    assert attempts == {1}, attempts
    log(f"workers drained within {took_s:.1f} s and ended with 0; no task was run twice")


def check_doctor(stack: Stack) -> None:
    command = (
        "exec",
        "-T",
        "gateway",
        "python",
        "-m",
        "langgraph_rq.producer",
        "doctor",
        "--prometheus",
        "http://prometheus:9090",
    )
    urls = ("--gateway", "https://gateway:8080", "--dashboard", "http://dashboard:9181")
    report = stack.compose(*command, *urls, "--json", capture=True, check=False)  # warnings are an exit code too
    checks = [json.loads(line) for line in report.splitlines()]
    assert checks
    assert not [check for check in checks if check["level"] == "fail"], report
    warnings = [check["check"] for check in checks if check["level"] == "warn"]
    log(f"doctor: {len(checks)} checks, no fail; warnings: {', '.join(warnings) or 'none'}")


def main() -> int:
    began = time.monotonic()
    with running() as stack:
        submit_and_kill(stack)
        check_dashboard(stack)
        stack.compose("up", "--detach", "--scale", f"worker={WORKERS}")
        check_prometheus(stack)
        check_acl_log(stack)  # which is empty again after a restart
        check_outage(stack)
        check_doctor(stack)
        check_drain(stack)
        check_acl_log(stack)
    log(f"passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

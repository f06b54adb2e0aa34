"""Clients that read nothing, send nothing or send slowly cost the gateway little, and shut nobody out."""

import asyncio
import resource
import select
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis

from langgraph_rq import Client
from langgraph_rq.producer.gateway import connections
from langgraph_rq.producer.gateway.admission.api_keys import make_key
from langgraph_rq.shared.graphs.description import GRAPH_DESCRIPTIONS
from tests.deployment import make_secrets
from tests.gateways import listening, start_gateway
from tests.waiting import until, until_sync

EVENTS = 200
FEW = 10
EVENT_BYTES = 60_000
READERS = 150
SMALL_BUFFER = 4_096
"""What a client's kernel takes for it."""

KEY, LINE = make_key("acme")
OTHER, OTHER_LINE = make_key("other")


def connect(url: str) -> socket.socket:
    """Open a connection that sends nothing by itself and takes little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    address = httpx.URL(url)
    client.connect((address.host, address.port))
    client.settimeout(20)
    return client


def get(url: str, path: str) -> socket.socket:
    """Ask for a path and read nothing of the answer."""
    client = connect(url)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has closed the connection; what it sent stays unread."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


def submit(redis_url: str, events: int = 0) -> str:
    """Submit a task that no worker runs, with large events; answers its path."""
    with Client(redis_url) as client, Redis.from_url(redis_url) as redis:
        task_id = client.submit({"n": 1}, stream=["custom"]).task_id
        for _ in range(events):
            redis.xadd(f"agent:events:{task_id}", {"type": "custom", "data": f'"{"x" * EVENT_BYTES}"'})
    return f"/tasks/{task_id}/events"


def rss_bytes(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@contextmanager
def ready(folder, redis_url, **settings):
    environment = {f"LGRQ_GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    with start_gateway(folder, {"REDIS_URL": redis_url, **environment}) as process:
        process.wait_until_ready()
        yield process


@pytest.mark.slow
def test_readers_that_take_nothing_hold_a_page_each_and_are_closed(redis_url, tmp_path):
    path = submit(redis_url, EVENTS)
    with ready(tmp_path, redis_url, stalled_s=3) as process, ExitStack() as stack:

        def taken_bytes():
            return rss_bytes(process.process.pid) - before

        before = rss_bytes(process.process.pid)
        readers = [stack.enter_context(get(process.url, path)) for _ in range(READERS)]
        until_sync(lambda: taken_bytes() > READERS * 300_000, 20)
        peak = 0
        while not all(is_closed(reader) for reader in readers):
            peak = max(peak, taken_bytes())
            assert httpx.get(f"{process.url}/health", timeout=5).status_code == 200
        assert peak < READERS * 1_200_000
        until_sync(lambda: taken_bytes() < READERS * 200_000, 20)


async def test_reader_that_takes_nothing_is_closed(redis_url):
    path = submit(redis_url, EVENTS)
    async with listening(redis_url, stalled_s=0.3) as (http, _):
        with await asyncio.to_thread(get, str(http.base_url), path) as reader:
            await until(lambda: is_closed(reader))


async def test_reader_that_takes_a_little_now_and_then_gets_every_event(redis_url):
    path = submit(redis_url, FEW)
    async with listening(redis_url, stalled_s=0.5) as (http, _):
        with await asyncio.to_thread(get, str(http.base_url), path) as reader:
            taken = 0
            while taken < FEW * EVENT_BYTES:
                taken += len(await asyncio.to_thread(reader.recv, 100_000))
                await asyncio.sleep(0.01)


async def test_streams_of_a_tenant_and_of_the_process_are_bounded(redis_url):
    ours, theirs = {"X-API-Key": KEY}, {"X-API-Key": OTHER}
    async with listening(redis_url, keys=f"{LINE}\n{OTHER_LINE}", tenant_streams=2, streams=3) as (http, server):
        paths = {}
        for headers in (ours, theirs):
            answer = await http.post("/tasks", json={"input": {"n": 1}}, headers=headers)
            paths[headers["X-API-Key"]] = f"{answer.headers['Location']}/events"

        @asynccontextmanager
        async def stream(headers):
            async with http.stream("GET", paths[headers["X-API-Key"]], headers=headers) as response:
                yield response

        async with stream(ours), stream(ours):
            async with stream(ours) as third:
                assert (third.status_code, third.headers["Retry-After"]) == (429, "5")
            async with stream(theirs) as other:
                assert other.status_code == 200
                async with stream(theirs) as fourth:
                    assert fourth.status_code == 429
        await until(lambda: not server.server_state.tasks)
        async with stream(ours) as again:
            assert again.status_code == 200


async def test_streams_of_runs_are_bounded_too(redis_url, redis_client):
    redis_client.hset(GRAPH_DESCRIPTIONS, "g", '{"created_at": 1, "updated_at": 1}\n')
    body = {"assistant_id": "g", "input": {}, "stream_mode": "values"}
    async with listening(redis_url, streams=1) as (http, server):
        run = (await http.post("/runs", json=body)).headers["Content-Location"]
        for method, path, json in (("POST", "/runs/stream", body), ("GET", f"{run}/stream", None)):
            async with http.stream(method, path, json=json) as first, http.stream(method, path, json=json) as second:
                assert (first.status_code, second.status_code) == (200, 429)
            await until(lambda: not server.server_state.tasks)


async def test_connection_without_a_request_is_closed_after_its_time(redis_url):
    async with listening(redis_url, head_s=0.3) as (http, server):
        with connect(str(http.base_url)) as silent, connect(str(http.base_url)) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
            await until(lambda: len(server.server_state.connections) == 2)
            for client in (silent, slow):
                await until(lambda client=client: is_closed(client))
        assert (await http.get("/health")).status_code == 200


async def test_connection_that_serves_an_event_stream_outlives_the_time_for_a_head(redis_url):
    path = submit(redis_url)
    async with listening(redis_url, head_s=0.2, heartbeat_s=0.1) as (http, _), http.stream("GET", path) as response:
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(10)][-1] == ": "


async def test_endless_head_and_endless_trailer_are_cut(redis_url):
    async with listening(redis_url) as (http, _):
        starts = [
            b"GET /health HTTP/1.1\r\nX-Long: ",
            b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-Long: ",
        ]
        for start in starts:
            with connect(str(http.base_url)) as client:

                def send(client=client, start=start):
                    client.sendall(start)
                    for _ in range(1_000):
                        client.sendall(b"x" * 10_000)

                with pytest.raises(ConnectionError):
                    await asyncio.to_thread(send)


async def test_body_that_does_not_arrive_is_a_408(redis_url):
    async with listening(redis_url, body_s=0.3) as (http, _):
        with connect(str(http.base_url)) as client:
            client.sendall(b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            client.sendall(b'Content-Length: 100\r\n\r\n{"input"')
            answer = b""
            while part := await asyncio.to_thread(client.recv, 65_536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body_too_slow" in answer


async def test_silent_connections_give_way_to_new_ones(redis_url):
    async with listening(redis_url, connections=16) as (http, server):
        with ExitStack() as stack:
            silent = [stack.enter_context(await asyncio.to_thread(connect, str(http.base_url))) for _ in range(40)]
            await until(lambda: len(server.server_state.connections) == 16)
            assert (await http.get("/health")).status_code == 200
            assert [is_closed(client) for client in silent[:20]] == [True] * 20


async def test_connection_is_refused_while_every_other_one_has_a_request(redis_url):
    path = submit(redis_url)
    async with listening(redis_url, connections=16) as (http, server):
        with ExitStack() as stack:
            for _ in range(16):
                stack.enter_context(await asyncio.to_thread(get, str(http.base_url), path))
            await until(lambda: len(server.server_state.tasks) == 16)
            refused = await http.get("/health")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        await until(lambda: len(server.server_state.tasks) == 0)
        assert (await http.get("/health")).status_code == 200


@pytest.mark.slow
def test_low_file_limit_is_warned_of_and_300_silent_connections_shut_nobody_out(redis_url, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Client(redis_url) as client:
        task_id = client.submit({"n": 1}).task_id

    def low():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    with start_gateway(tmp_path, {"REDIS_URL": redis_url}, before=low) as process, ExitStack() as stack:
        process.wait_until_ready()
        assert "files.limited" in process.log.read_text()
        for _ in range(300):
            stack.enter_context(connect(process.url))
        for _ in range(5):
            assert httpx.get(f"{process.url}/tasks/{task_id}", timeout=5).status_code == 200
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


def test_tls_handshake_that_does_not_happen_ends_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "HANDSHAKE_S", 0.3)
    secrets = make_secrets(tmp_path / "secrets")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(secrets / "gateway.crt", secrets / "gateway.key")

    async def serve():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        with await asyncio.to_thread(connect, f"https://127.0.0.1:{port}") as silent:
            await until(lambda: is_closed(silent))
        server.close()

    with asyncio.Runner(loop_factory=connections.new_loop) as runner:
        runner.run(serve())

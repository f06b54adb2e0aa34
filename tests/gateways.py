"""Gateways for tests: inside the test's own event loop, or as a process that can be killed."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from langgraph_rq.producer.gateway.app import create_app
from langgraph_rq.producer.gateway.server import GatewayServer, server_config
from langgraph_rq.shared.settings import GatewaySettings
from tests.installation import START_TIMEOUT_S, clean_environment
from tests.waiting import until, until_sync


@asynccontextmanager
async def gateway(redis_url: str, **settings) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the client that the block gets; API keys are required only if `settings` has some."""
    settings = {"without_keys": "keys" not in settings, "rate": None, **settings}
    app = create_app(GatewaySettings(**settings), redis_url)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        yield http


@asynccontextmanager
async def listening(redis_url: str, **settings) -> AsyncIterator[tuple[httpx.AsyncClient, GatewayServer]]:
    """Serve on a port, in the test's own loop: a transport without one would gather a stream."""
    port = free_port()
    settings = {"without_keys": "keys" not in settings, "rate": None, **settings}
    options = GatewaySettings(port=port, **settings)
    server = GatewayServer(server_config(create_app(options, redis_url), options))
    serving = asyncio.create_task(server._serve())
    await until(lambda: server.started or serving.done())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        yield http, server
    server.should_exit = True
    await serving


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class GatewayProcess:
    """`langgraph-producer serve` as a process."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    def wait_until_ready(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        until_sync(answers, START_TIMEOUT_S)


@contextmanager
def start_gateway(
    folder: Path, environment: Mapping[str, str], port: int | None = None, before: Callable[[], None] | None = None
) -> Iterator[GatewayProcess]:
    """Run it in `folder` until the end of the block, on `port` or on a free one; `before` runs in it first."""
    port = port or free_port()
    log = folder / f"gateway-{port}.log"
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "langgraph_rq.producer", "serve", "--port", str(port)],
            cwd=folder,
            env=clean_environment({"LGRQ_GATEWAY_WITHOUT_KEYS": "true", "LGRQ_GATEWAY_RATE": "none", **environment}),
            stdout=said,
            stderr=said,
            preexec_fn=before,  # noqa: PLW1509 - it only calls setrlimit
        )
    try:
        yield GatewayProcess(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()

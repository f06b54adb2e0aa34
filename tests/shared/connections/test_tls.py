import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq import Client
from langgraph_rq.shared.connections.clients import open_async, open_sync
from langgraph_rq.shared.connections.kept_connection import KeptConnection
from langgraph_rq.shared.dev.embedded_redis import _free_port
from tests import fleet
from tests.deployment import make_secrets
from tests.servers import redis_stack


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_secrets(tmp_path_factory.mktemp("secrets"))


def tls_redis(certificates, port, bind="127.0.0.1"):
    files = {"cert": "redis.crt", "key": "redis.key", "ca-cert": "ca.crt"}
    options = {f"tls-{name}-file": str(certificates / file) for name, file in files.items()}
    return redis_stack(bind=bind, **{"tls-port": str(port), "tls-auth-clients": "no", **options})


@pytest.fixture(scope="module")
def tls_port(certificates) -> Iterator[int]:
    port = _free_port()
    with tls_redis(certificates, port):
        yield port


@pytest.fixture
def tls_url(certificates, tls_port) -> str:
    return f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificates / 'ca.crt'}"


async def test_a_task_runs_over_tls_with_a_private_ca(tls_url):
    graph = fleet.one_node_graph(lambda state: {"said": state["query"]})
    with Client(tls_url) as client:
        async with fleet.worker(tls_url, {"assistant": graph}, checkpoints=True):
            receipt = client.submit({"query": "hello"})
            result = await asyncio.to_thread(client.wait, receipt.task_id, 20)
    assert result.status == "success"


async def test_a_round_trip_of_many_commands_is_one_read_for_the_server(tls_url):
    async with open_async(tls_url) as client, client.client() as asking:
        connection = KeptConnection(client)
        await connection.exchange([("PING",)])
        before = (await asking.info("stats"))["total_reads_processed"]
        await connection.exchange([("PING",)] * 16)
        after = (await asking.info("stats"))["total_reads_processed"]
    assert after - before == len(("the round trip", "these statistics"))


@contextmanager
def busy_at_first(port: int) -> Iterator[int]:
    """The port of a server that takes two connections without a word, the handshake and the try without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as open_ones:

        def pass_on(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while chunk := source.recv(65536):
                    target.sendall(chunk)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with server.accept()[0], server.accept()[0]:
                ours = open_ones.enter_context(server.accept()[0])
            theirs = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
            for source, target in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=pass_on, args=(source, target), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_server_that_is_slow_to_shake_hands_is_given_the_whole_time(is_async, certificates, tls_port):
    with busy_at_first(tls_port) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates / 'ca.crt'}"
        if is_async:
            async with open_async(url, timeout_s=None) as client:
                assert await client.ping()
        else:
            with open_sync(url, timeout_s=None) as client:
                assert await asyncio.to_thread(client.ping)
                assert client.connection_pool._connections[0]._sock.gettimeout() is None


async def test_a_server_that_an_unknown_ca_signed_is_refused(tls_port):
    url = f"rediss://127.0.0.1:{tls_port}/0"
    with open_sync(url) as client, pytest.raises(RedisConnectionError, match="certificate verify failed"):
        client.ping()
    async with open_async(url) as client:
        with pytest.raises(RedisConnectionError, match="certificate verify failed"):
            await client.ping()


def test_a_certificate_for_another_name_is_refused(certificates, tls_port):
    # 127.0.0.2 is this very host, but no name in the certificate
    url = f"rediss://127.0.0.2:{tls_port}/0?ssl_ca_certs={certificates / 'ca.crt'}"
    with (
        tls_redis(certificates, tls_port, bind="127.0.0.2"),
        open_sync(url) as client,
        pytest.raises(RedisConnectionError, match="certificate is not valid for"),
    ):
        client.ping()


def test_a_client_without_tls_gets_nowhere(tls_port):
    with open_sync(f"redis://127.0.0.1:{tls_port}/0") as client, pytest.raises(RedisConnectionError):
        client.ping()

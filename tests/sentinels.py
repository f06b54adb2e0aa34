"""A Redis primary, replicas and three sentinels that watch them."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis, _free_port, find_redis
from tests.deployment import ROOT
from tests.waiting import until_sync

# `read` returns when our end of its pipe closes, also when this process was killed.
_UNTIL_WE_END = '"$@" >/dev/null 2>&1 & pid=$!; read -r _; kill "$pid"; wait "$pid"'


def port_of(server: EmbeddedRedis) -> int:
    with Redis.from_url(server.url) as client:
        return int(client.info("server")["tcp_port"])


@contextmanager
def replicated(replicas: int) -> Iterator[list[EmbeddedRedis]]:
    """Start a primary and its replicas, and wait until they are in sync."""
    at_once = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedRedis(tcp=True, **at_once)) for _ in range(1 + replicas)]
        for server in servers:  # a replica that still writes its first file does not end when it is only asked to
            stack.callback(server.kill)
        for server in servers[1:]:
            follow(server, servers[0])
        yield servers


def follow(replica: EmbeddedRedis, primary: EmbeddedRedis) -> None:
    with Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", port_of(primary))
        until_sync(lambda: client.info("replication")["master_link_status"] == "up")


@dataclass(frozen=True)
class Watched:
    primary: EmbeddedRedis
    sentinels: list[Redis]
    url: str


@contextmanager
def watched(directory: Path, replicas: int = 2) -> Iterator[Watched]:
    """Start three sentinels with the shipped configuration and shorter timeouts."""
    with ExitStack() as stack:
        primary = stack.enter_context(replicated(replicas))[0]
        shipped = (ROOT / "deploy/redis/sentinel.conf").read_text()
        ports = [_free_port() for _ in range(3)]
        sentinels = []
        for port in ports:
            config = directory / f"sentinel-{port}.conf"
            text = shipped.replace("REDIS_PRIMARY 6379", f"127.0.0.1 {port_of(primary)}")
            text = text.replace("port 26379", f"port {port}\nbind 127.0.0.1", 1).replace("agents 3000", "agents 500")
            config.write_text(text)
            command = ["/bin/sh", "-c", _UNTIL_WE_END, "sh", str(find_redis().server), str(config), "--sentinel"]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=directory))
            stack.callback(process.communicate)
            sentinels.append(stack.enter_context(Redis(port=port, decode_responses=True)))
        until_sync(lambda: all(_sees_all(sentinel, replicas) for sentinel in sentinels), 20)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield Watched(primary, sentinels, f"redis+sentinel://{hosts}/agents/0")


def _sees_all(sentinel: Redis, replicas: int) -> bool:
    try:
        state = sentinel.sentinel_masters()["agents"]
    except ConnectionError:
        return False
    return state["num-slaves"] == replicas and state["num-other-sentinels"] == 2

"""A Redis primary, replicas and three sentinels that watch them, with the shipped configuration."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis, _free_port, find_redis
from tests.clocks import shifted
from tests.deployment import ROOT, password_of, role_url, with_password
from tests.waiting import until_sync

SERVICE = "agents"
PASSWORD_OF_THE_DEPOSED = "unknown to the sentinels"

# `read` returns when our end of its pipe closes, also when this process was killed.
_UNTIL_WE_END = '"$@" >/dev/null 2>&1 & pid=$!; read -r _; kill "$pid"; wait "$pid"'


def port_of(server: EmbeddedRedis) -> int:
    port = urlsplit(server.url).port
    assert port
    return port


def open_as_admin(server: EmbeddedRedis, secrets: Path | None = None) -> Redis:
    return Redis.from_url(role_url(server, "admin", secrets) if secrets else server.url, decode_responses=True)


@contextmanager
def replicated(replicas: int, *, secrets: Path | None = None, behind_s: float = 0.0) -> Iterator[list[EmbeddedRedis]]:
    """Start a primary and its replicas, and wait until they are in sync.

    Args:
        replicas: How many.
        secrets: Of the shipped users; None: there are no users.
        behind_s: By so much the clocks of the replicas are behind (s).
    """
    options = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
    if secrets:
        options |= {"aclfile": str(secrets / "users.acl"), "masteruser": "admin"}
        options["masterauth"] = password_of("admin", secrets)
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedRedis(tcp=True, **options))]
        with shifted(-behind_s) if behind_s else nullcontext():
            servers += [stack.enter_context(EmbeddedRedis(tcp=True, **options)) for _ in range(replicas)]
        for server in servers:  # a replica that still writes its first file does not end when it is only asked to
            stack.callback(server.kill)
        for server in servers[1:]:
            follow(server, servers[0], secrets)
        yield servers


def follow(replica: EmbeddedRedis, primary: EmbeddedRedis, secrets: Path | None = None) -> None:
    """Make `replica` a replica of `primary`, as soon as it has loaded its data, and wait until they are in sync."""
    with open_as_admin(replica, secrets) as client:
        until_sync(lambda: not client.info("persistence")["loading"])
        client.replicaof("127.0.0.1", port_of(primary))
        until_sync(lambda: client.info("replication")["master_link_status"] == "up")


@dataclass(frozen=True)
class Watched:
    servers: list[EmbeddedRedis]
    """The first is the primary at the start."""
    sentinels: list[Redis]
    url: str
    secrets: Path | None

    @property
    def primary(self) -> EmbeddedRedis:
        return self.servers[0]

    def url_of(self, role: str) -> str:
        """Of the sentinels, for one of the shipped users."""
        assert self.secrets
        return with_password(self.url, role, self.secrets) + f"?sentinel_password={password_of('admin', self.secrets)}"

    def promoted(self) -> EmbeddedRedis:
        """The primary that the sentinels name now."""
        _, port = self.sentinels[0].sentinel_get_master_addr_by_name(SERVICE)
        return next(server for server in self.servers if port_of(server) == int(port))


@contextmanager
def watched(
    directory: Path, replicas: int = 2, *, secrets: Path | None = None, behind_s: float = 0.0
) -> Iterator[Watched]:
    """Start three sentinels with the shipped configuration; the rest is as in `replicated`.

    That calls a server down after 3 s. After a second or less they would not have sent a new primary their first PING,
    and would depose it although it lives.
    """
    with ExitStack() as stack:
        servers = stack.enter_context(replicated(replicas, secrets=secrets, behind_s=behind_s))
        shipped = (ROOT / "deploy/redis/sentinel.conf").read_text()
        shipped = shipped.replace("REDIS_PRIMARY 6379", f"127.0.0.1 {port_of(servers[0])}")
        password = password_of("admin", secrets) if secrets else None
        if password:
            for setting in ("sentinel auth-user", "sentinel auth-pass", "requirepass"):
                shipped = shipped.replace(f"#   {setting}", setting)
            shipped = shipped.replace(" PASSWORD\n", f" {password}\n")
        ports = [_free_port() for _ in range(3)]
        sentinels = []
        for port in ports:
            config = directory / f"sentinel-{port}.conf"
            config.write_text(shipped.replace("port 26379", f"port {port}\nbind 127.0.0.1", 1))
            command = ["/bin/sh", "-c", _UNTIL_WE_END, "sh", str(find_redis().server), str(config), "--sentinel"]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=directory))
            stack.callback(process.communicate)
            sentinels.append(stack.enter_context(Redis(port=port, password=password, decode_responses=True)))
        for sentinel in sentinels:  # they look at the servers each second, instead of every 10 s
            until_sync(lambda sentinel=sentinel: _is_told(sentinel))
        until_sync(lambda: all(_sees_all(sentinel, replicas) for sentinel in sentinels), 20)
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield Watched(servers, sentinels, f"redis+sentinel://{hosts}/{SERVICE}/0", secrets)


def depose(redis: Watched) -> EmbeddedRedis:
    """Cut the primary off from its replicas and the sentinels, not from its clients; return the promoted one."""
    with open_as_admin(redis.primary) as client:
        client.config_set("requirepass", PASSWORD_OF_THE_DEPOSED)  # those that are connected need none
        for one in client.client_list():
            if one["name"].startswith("sentinel-"):
                client.client_kill_filter(_id=one["id"])
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    until_sync(lambda: redis.promoted() is not redis.primary, 60)
    return redis.promoted()


def _is_told(sentinel: Redis) -> bool:
    try:
        return bool(sentinel.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "1000"))
    except RedisConnectionError:
        return False


def _sees_all(sentinel: Redis, replicas: int) -> bool:
    try:
        state = sentinel.sentinel_masters()[SERVICE]
    except RedisConnectionError:
        return False
    return bool(state["num-slaves"] == replicas and state["num-other-sentinels"] == 2)

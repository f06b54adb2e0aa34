"""A Redis with the shipped users, one per role, and the secrets that belong to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.connections.script_cache import load_missing
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.deployment import make_secrets, role_url


@dataclass(frozen=True)
class ShippedUsers:
    """A running server."""

    server: EmbeddedRedis
    secrets: Path

    def url(self, role: str) -> str:
        return role_url(self.server, role, self.secrets)

    def load_scripts(self) -> int:
        """Load the scripts, as the step of a deployment does."""
        with open_sync(self.url("worker")) as redis:
            return load_missing(redis)

    def refusals(self) -> list[tuple[str, str]]:
        """User and object of each entry in ACL LOG."""
        with Redis.from_url(self.url("admin"), decode_responses=True) as redis:
            return [(entry["username"], entry["object"]) for entry in redis.acl_log()]


@contextmanager
def shipped_users(directory: Path, **environment: str) -> Iterator[ShippedUsers]:
    """Run a server for the block; `environment` is that of deploy/make-secrets.sh."""
    secrets = make_secrets(directory, **environment)
    with EmbeddedRedis(aclfile=str(secrets / "users.acl"), appendfsync="always") as server:
        yield ShippedUsers(server, secrets)

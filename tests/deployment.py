"""The secrets of a deployment, made by deploy/make-secrets.sh."""

import os
import subprocess
from pathlib import Path

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parent.parent


def make_secrets(directory: Path, **environment: str) -> Path:
    """Create passwords, users and certificates in `directory`; return it."""
    command = [ROOT / "deploy/make-secrets.sh", directory]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return directory


def role_url(server: EmbeddedRedis, role: str, secrets: Path) -> str:
    """Return the URL of a shipped Redis user on a server that runs with `secrets / "users.acl"`."""
    return with_password(server.url, role, secrets)


def with_password(url: str, role: str, secrets: Path) -> str:
    """Return a URL, of Redis or of its sentinels, with a role's name and password."""
    return url.replace("://", f"://{role}:{password_of(role, secrets)}@", 1)


def password_of(role: str, secrets: Path) -> str:
    """Read a role's password."""
    return (secrets / f"redis_{role}_password").read_text().strip()

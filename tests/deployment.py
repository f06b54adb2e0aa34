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
    password = (secrets / f"redis_{role}_password").read_text().strip()
    return server.url.replace("unix://", f"unix://{role}:{password}@")

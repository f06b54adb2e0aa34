"""A REDIS_URL that leads to no usable Redis: each program says what is wrong with it, in one line."""

import socket
import threading
from contextlib import suppress
from functools import partial

import pytest

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.newcomers.programs import produce, work

PROGRAMS = {
    "worker": partial(work, "--burst"),
    "submit": partial(produce, "submit", "What is a lease?"),
    "workers": partial(produce, "workers"),
    "audit": partial(produce, "audit"),
}
every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
each_program = pytest.mark.parametrize(
    "program",
    [
        pytest.param(program, id=name, marks=pytest.mark.slow if name == "worker" else ())
        for name, program in PROGRAMS.items()
    ],
)
"""A start of the worker takes seconds: one test of them all has it in every run."""


@pytest.fixture(scope="module")
def plain_redis():
    with EmbeddedRedis(tcp=True) as redis:
        yield redis.url


@pytest.fixture(scope="module")
def protected_redis():
    with EmbeddedRedis(tcp=True, requirepass="open sesame") as redis:
        yield redis.url


@pytest.fixture
def web_server():
    """The URL of a server that answers as web servers do."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.recv(4096)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        server.shutdown(socket.SHUT_RDWR)


@each_program
def test_database_that_redis_does_not_have_is_named(program, plain_redis):
    url = plain_redis.removesuffix("/0") + "/99"
    said = program(REDIS_URL=url).error
    assert said.startswith(f"cannot reach Redis at {url}: it has no database of this number, most have 0 to 15")


@every_program
def test_server_that_is_no_redis_is_named(program, web_server):
    said = program(REDIS_URL=web_server).error
    assert said.startswith(f"cannot reach Redis at {web_server}: expected a Redis, got another program")


@each_program
def test_redis_that_asks_for_a_password_is_named(program, protected_redis):
    said = program(REDIS_URL=protected_redis).error
    assert said == (
        f"cannot reach Redis at {protected_redis}: "
        "it asks for a password: use the URL redis://user:password@host:port/db"
    )


@each_program
def test_redis_that_is_no_sentinel_is_named(program, plain_redis):
    url = plain_redis.replace("redis://", "redis+sentinel://").removesuffix("/0") + "/agents"
    assert program(REDIS_URL=url).error == (
        f"cannot reach Redis at {url}: expected a sentinel, got a Redis: use redis:// for one without sentinels"
    )


def test_wrong_password_is_named(protected_redis):
    said = produce("workers", REDIS_URL=protected_redis.replace("//", "//:sesame@")).error
    assert said.endswith("it refused the user or the password of the URL")
    assert "sesame" not in said


@pytest.mark.parametrize("redis", ["plain_redis", "protected_redis"])
@each_program
def test_tls_to_a_plain_port_is_named_without_a_timeout(program, redis, request):
    url = request.getfixturevalue(redis).replace("redis:", "rediss:")
    assert program(REDIS_URL=url).error == (
        f"cannot reach Redis at {url}: "
        "rediss:// needs a port with TLS, and this one answers without; redis:// is the one without"
    )


@pytest.mark.parametrize("url", ["http://localhost:6379/0", "localhost:6379", "redis://one:two/0"])
def test_url_of_another_form_is_shown(url):
    said = produce("workers", REDIS_URL=url).error
    assert said.startswith("REDIS_URL: expected redis://host:port/db, ")
    assert said.endswith("got: redis://***" if ":two" in url else f"got: {url}")


@pytest.mark.parametrize(
    "secret", ["redis://ann:hunter2", "hunter2", "http://ann:hunter2@host", "redis:hunter2@host:1"]
)
def test_password_in_a_url_of_another_form_is_not_shown(secret):
    said = produce("workers", REDIS_URL=secret).error
    assert "hunter2" not in said
    assert "***" in said

"""A port that another program has: who it is that wanted it, and how to choose another."""

import socket

import pytest

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from tests.newcomers.programs import produce


@pytest.fixture(scope="module")
def redis_url():
    with EmbeddedRedis() as redis:
        yield redis.url


@pytest.fixture
def taken_port():
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "variable"),
    [(("serve", "--without-keys"), "LGRQ_GATEWAY_PORT"), (("dashboard",), "LGRQ_DASHBOARD_PORT")],
)
def test_server_on_a_taken_port_ends_with_one_error_and_prints_no_url(redis_url, taken_port, command, variable):
    done = produce(*command, "--port", str(taken_port), REDIS_URL=redis_url)
    assert (done.code, done.stdout) == (2, "")
    assert done.error == (
        f"{variable}: expected a port to listen on, got: 127.0.0.1:{taken_port} "
        "(Address already in use); choose another with --port"
    )


def test_offline_model_on_a_taken_port_says_so_and_how_to_choose_another(taken_port):
    done = produce("dev", "model", "--port", str(taken_port))
    assert (done.code, done.stdout) == (3, "")
    assert done.error == (
        f"--port: expected a port to listen on, got: 127.0.0.1:{taken_port} "
        "(Address already in use); choose another, or none for a free one"
    )


@pytest.mark.parametrize(
    ("option", "expected", "value"),
    [("--port", "0 to 65535", "99999"), ("--port", "0 to 65535", "x"), ("--latency", "seconds, 0 or more", "x")],
)
def test_port_or_latency_that_cannot_be_is_an_error(option, expected, value):
    assert f"argument {option}: expected {expected}, got: {value}\n" in produce("dev", "model", option, value).stderr

"""The offline model server as a process: start, stop, signals, exit codes."""

import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from langgraph_rq.worker.dev.offline_model.process import OfflineAdmin, OfflineLLM


def test_importing_the_context_manager_loads_no_server_and_no_langchain():
    program = (
        "import sys, langgraph_rq.worker.dev.offline_model.process;"
        "print([m for m in sys.modules if m.startswith(('langchain', 'langgraph.', 'uvicorn', 'pydantic'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_killed_server_comes_back_at_the_same_url():
    with OfflineLLM() as server:
        url = server.url
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.admin.stats()
        server.start()
        assert server.url == url
        assert server.admin.stats()["calls"] == 0


def test_server_ends_when_its_parent_is_killed():
    program = (
        "import signal; from langgraph_rq.worker.dev.offline_model.process import OfflineLLM;"
        "s = OfflineLLM().start();"
        "print(s.url, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        connection = HTTPConnection(urlsplit(parent.stdout.readline()).netloc, timeout=20)
        connection.request("GET", "/admin/stats")
        connection.getresponse().read()
        parent.kill()
        assert connection.sock.recv(1) == b""
        connection.close()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_exit_code_0_even_while_a_call_hangs(signal_number):
    command = [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--latency", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip().removeprefix("OPENAI_BASE_URL=")
    admin = OfflineAdmin(url)
    address = urlsplit(url)
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-fault: hang\r\ncontent-length: 2\r\n\r\n{}"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(request)
        while not admin.calls():
            pass
        os.kill(process.pid, signal_number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_address_in_use_is_one_line_and_exit_code_3(server):
    port = str(urlsplit(server.url).port)
    command = [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert port in done.stderr


def test_help_ends_with_examples_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "examples:" in done.stdout
    assert "exit codes:" in done.stdout


def test_negative_latency_is_wrong_usage():
    command = [sys.executable, "-m", "langgraph_rq.worker.dev.offline_model", "--latency=-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected seconds" in done.stderr

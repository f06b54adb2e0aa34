"""The dashboard's password: a wrong one is logged and answered slowly, so that few can be tried."""

import time
from hmac import compare_digest
from threading import Lock

from flask import Response, request

from langgraph_rq.shared.telemetry.logs import get_logger

_DELAY_S = 0.5
_WAITING = 2
"""Wrong passwords that wait at once, each on one of the server's 8 threads. Meanwhile no other one is looked at, not
even a right one: else an attacker who tries many at once would find it without a wait."""

_log = get_logger(__name__)


class Door:
    """Asks for the password before each request."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._lock = Lock()
        self._waiting = 0

    def ask(self) -> Response | None:
        """Answer 401 or 429; None: the password is right."""
        given = request.authorization
        if given is None:
            return _password_needed()
        if self._waiting >= _WAITING:
            return _later()
        if given.username == "admin" and compare_digest((given.password or "").encode(), self._password):
            return None
        return self._refuse()

    def _refuse(self) -> Response:
        with self._lock:
            if self._waiting >= _WAITING:
                return _later()
            self._waiting += 1
        _log.warning("password.refused", address=request.remote_addr)
        try:
            time.sleep(_DELAY_S)
        finally:
            with self._lock:
                self._waiting -= 1
        return _password_needed()


def _password_needed() -> Response:
    return Response("password needed\n", 401, {"WWW-Authenticate": 'Basic realm="langgraph-rq"'})


def _later() -> Response:
    return Response("too many wrong passwords: try again in a second\n", 429, {"Retry-After": "1"})

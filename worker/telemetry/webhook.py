"""Post JSON to one HTTPS address that an operator chose, and to nowhere else.

Only https, only hosts on the list, resolved once and connected to that very address, which must be a public one, and no
redirect is followed: so neither a setting nor a DNS record makes a worker talk to machines of its own network.

Signed as Stripe's webhooks are: `LGRQ-Signature: t=<unix time>,v1=<hex>`, the HMAC-SHA256 over `<t>.<body>`.
"""

import hmac
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from langgraph_rq.shared.errors import SettingsError

TIMEOUT_S = 10.0
_ANSWER_BYTES = 4_096


_PUBLIC_6 = ip_network("2000::/3")
_DETOURS = tuple(
    map(
        ip_network,
        (
            "192.88.99.0/24",  # relays of 6to4
            "2001::/23",  # Teredo and other protocols' own
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # a black hole
            "3fff::/20",  # for documentation
        ),
    )
)
"""Of the public ranges what leads elsewhere: such an address has an IPv4 address in it, which may be any."""


def is_public(address: str) -> bool:
    """Say whether an address is of the public Internet, and leads to no other one.

    `ipaddress` alone lets too much through: NAT64, site-local addresses and IPv4 addresses in other forms, all of which
    lie outside 2000::/3, and 6to4.
    """
    parsed = ip_address(address)
    if not parsed.is_global or parsed.is_multicast or any(parsed in detour for detour in _DETOURS):
        return False
    return parsed.version == 4 or parsed in _PUBLIC_6


class Webhook:
    """One address.

    Args:
        url: Where to post.
        hosts: The names that it may have.
        key: Signs; None posts without a signature.
        accepts: Says of each resolved address whether it may be connected to.
        context: Of TLS; None verifies as browsers do.

    Raises:
        SettingsError: the URL is not https, names another host, or has credentials in it.
    """

    def __init__(
        self,
        url: str,
        hosts: Collection[str],
        key: str | None = None,
        *,
        accepts: Callable[[str], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username:
            raise SettingsError("LGRQ_ALERT_WEBHOOK_URL: expected an https:// URL without credentials")
        if parts.hostname not in hosts:
            raise SettingsError(
                f"LGRQ_ALERT_WEBHOOK_URL: expected a host of LGRQ_ALERT_WEBHOOK_HOSTS, got: {parts.hostname}"
            )
        self._host, self._port = parts.hostname, parts.port or 443
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._key = key
        self._accepts = accepts
        self._context = context or ssl.create_default_context()

    def post(self, document: Mapping[str, Any]) -> int:
        """Post a JSON document; answers the status, which may be a redirect that was not followed.

        Raises:
            OSError: there is no answer, or the name resolves to an address that is not allowed.
        """
        body = json.dumps(document).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "langgraph-rq"}
        if self._key:
            now_s = int(time.time())
            signature = hmac.new(self._key.encode(), b"%d.%s" % (now_s, body), sha256).hexdigest()
            headers["LGRQ-Signature"] = f"t={now_s},v1={signature}"
        connection = _Pinned(self._host, self._port, self._resolve(), self._context)
        try:
            connection.request("POST", self._path, body, headers)
            answer = connection.getresponse()
            answer.read(_ANSWER_BYTES)
            return answer.status
        except http.client.HTTPException as error:
            raise OSError(f"no HTTP answer: {type(error).__name__}") from error
        finally:
            connection.close()

    def _resolve(self) -> str:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in found]
        for address in addresses:
            if not self._accepts(address):
                raise OSError(f"expected {self._host} to have public addresses only, got: {address}")
        return addresses[0]


class _Pinned(http.client.HTTPSConnection):
    """Connects to an address that was resolved before, and verifies the certificate of the name."""

    def __init__(self, host: str, port: int, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        """Connect, to no other address."""
        plain = socket.create_connection((self._address, self.port), TIMEOUT_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)

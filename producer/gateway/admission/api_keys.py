"""API keys and their digests.

A key is a long random string, so a plain SHA-256 of it is as good as a slow hash: there is nothing to guess. Digests
stand as lines `tenant:sha256`, usually in the file that LGRQ_GATEWAY_KEYS_FILE names; fields behind it, such as
`rate=600/minute`, replace the settings for its tenant. A tenant may have several keys, so that one can be replaced
while the other still works.
"""

import re
import secrets
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest

from langgraph_rq.producer.gateway.admission.grants import Grant, change_grant, default_grant
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import TenantSettings

_LINE = re.compile(r"([a-z0-9]{1,32}):([0-9a-f]{64})((?:\s+[a-z_]+=\S*)*)")


def make_key(tenant: str) -> tuple[str, str]:
    """Make a key; return it and its line for the file. Raises SettingsError for an impossible tenant name."""
    key = f"lgrq_{secrets.token_urlsafe(32)}"
    line = f"{tenant}:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise SettingsError(f"tenant: expected lower-case letters and digits, at most 32, got: {tenant}")
    return key, line


class Keyring:
    """The keys that are accepted, as (what it lets its tenant do, digest)."""

    def __init__(self, keys: Sequence[tuple[Grant, str]]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def parse(cls, text: str, tenants: TenantSettings) -> "Keyring":
        """Read the lines; empty ones and those that begin with # are passed over.

        Raises:
            SettingsError: naming the line, not showing it.
        """
        keys = []
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.startswith("#"):
                found = _LINE.fullmatch(line.strip())
                if not found:
                    raise SettingsError(
                        f"LGRQ_GATEWAY_KEYS, line {number}: expected tenant:sha256, as `langgraph-producer new-key` "
                        "writes it"
                    )
                try:
                    grant = change_grant(default_grant(found[1], tenants), found[3].split())
                except SettingsError as error:
                    raise SettingsError(f"LGRQ_GATEWAY_KEYS, line {number}: {error}") from None
                keys.append((grant, found[2]))
        if not keys:
            raise SettingsError("LGRQ_GATEWAY_KEYS: expected at least one key, got none")
        return cls(keys)

    def grant_of(self, key: str) -> Grant | None:
        """Look up what a key lets its tenant do, in the same time for every key."""
        digest, grant = _digest(key), None
        for granted, kept in self._keys:
            if compare_digest(digest, kept):
                grant = granted
        return grant


def _digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()

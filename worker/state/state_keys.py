"""The optional keys that encrypt and authenticate state: AES-256-GCM, with a key of its own for each thread.

`LGRQ_STATE_KEY` lists secrets, separated by commas or white space. The first one writes, all of them read, so that a
secret is replaced in three steps: every worker gets it as the second, then as the first, then the old one goes. The
word `plain` stands for no encryption in such a list, and brings it to threads that exist, or ends it.

Of a secret and a place (a thread, a store item) follows the key of that place. State that is moved to another place,
shortened, changed or written without a secret does not decrypt. A place's own older state does: a writer
to Redis can turn a thread back.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langgraph_rq.shared.announcements.state_kept import PLAIN
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.worker.state.refused_state import KEY_SETTING, RefusedStateError

SHORTEST = 32
"""Characters of a secret."""

_CIPHER = "aes256gcm"
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class StateKeys:
    """The secrets by their names, which do not give them away, the writing one first; a secret of None is `plain`."""

    secrets: Mapping[str, bytes | None]

    @classmethod
    def parse(cls, text: str | None) -> "StateKeys":
        """Read the setting; None: state is not encrypted.

        Raises:
            SettingsError: a secret is too short, or the library for encryption is not installed.
        """
        words = [PLAIN] if text is None else text.replace(",", " ").split()
        if not words or any(word != PLAIN and len(word) < SHORTEST for word in words):
            raise SettingsError(
                f"{KEY_SETTING}: expected secrets of at least {SHORTEST} characters, such as `openssl rand -base64 32` "
                f"makes, separated by commas, got: {'a shorter one' if words else 'none'}"
            )
        if set(words) != {PLAIN}:
            _cipher_class()
        return cls({_name(word): None if word == PLAIN else word.encode() for word in words})

    def place(self, place: str) -> "PlaceKeys":
        """Return the keys of one place."""
        return PlaceKeys(self, place)

    @property
    def is_plain(self) -> bool:
        """Whether what is written is not encrypted."""
        return next(iter(self.secrets.values())) is None


class PlaceKeys:
    """Encrypts and decrypts what is stored at one place."""

    __slots__ = ("_ciphers", "_keys", "_place")

    def __init__(self, keys: StateKeys, place: str) -> None:
        self._keys = keys
        self._place = place.encode()
        self._ciphers: dict[str, Any] = {}

    def seal(self, kind: str, data: bytes) -> tuple[str, bytes]:
        """Encrypt data; their kind is authenticated, and gets the names of cipher and secret."""
        name, secret = next(iter(self._keys.secrets.items()))
        if secret is None:
            return kind, data
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = self._cipher(name, secret).encrypt(nonce, data, kind.encode())
        return f"{kind}+{_CIPHER}:{name}", nonce + sealed

    def open(self, kind: str, data: bytes) -> tuple[str, bytes]:
        """Undo `seal`.

        Raises:
            RefusedStateError: the data were written with a secret that is not known here, or not at this place
                with one.
        """
        plain_kind, _, sealed_by = kind.partition("+")
        name = sealed_by.removeprefix(f"{_CIPHER}:") if sealed_by else PLAIN
        if name not in self._keys.secrets:
            raise RefusedStateError(self._unknown(name))
        secret = self._keys.secrets[name]
        if secret is None:
            return kind, data
        try:
            opened = self._cipher(name, secret).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], plain_kind.encode())
        except Exception:
            raise RefusedStateError(
                f"state: expected what was written here with the secret {name} of {KEY_SETTING}, got: other data; "
                "they were changed, or moved here from another thread"
            ) from None
        return plain_kind, opened

    def _cipher(self, name: str, secret: bytes) -> Any:
        if name not in self._ciphers:
            key = hmac.digest(hashlib.sha256(secret).digest(), self._place, "sha256")
            self._ciphers[name] = _cipher_class()(key)
        return self._ciphers[name]

    def _unknown(self, name: str) -> str:
        known = ", ".join(self._keys.secrets)
        if name == PLAIN:
            return (
                f"state: expected it encrypted with a secret of {KEY_SETTING} (known: {known}), got: plain; to read "
                f"what was written before there was a secret, add the word {PLAIN} to the end of the setting"
            )
        given = f"known: {known}" if known != PLAIN else "it is not set"
        return f"state: expected a secret of {KEY_SETTING} ({given}), got: encrypted with the secret {name[:20]!r}"


def _name(word: str) -> str:
    """Name a secret, without giving it away: eight hexadecimal digits of its hash."""
    return PLAIN if word == PLAIN else hashlib.sha256(b"langgraph-rq state " + word.encode()).hexdigest()[:8]


def _cipher_class() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - in the extra `encryption`
    except ImportError:
        raise SettingsError(
            f"{KEY_SETTING}: expected pip install 'langgraph-rq[encryption]', got: no cryptography"
        ) from None
    return AESGCM

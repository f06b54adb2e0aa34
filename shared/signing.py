r"""Signatures of tasks and results: a producer acts for the tenants whose keys it holds, and for no other.

Redis' users cannot tell tenants apart where they share a queue. With LGRQ_TASK_KEYS a task carries an HMAC-SHA256 by a
key of its tenant, over its id in Redis and its text as it stands in the job; workers, who hold the keys of all tenants,
refuse what has none. A result carries one likewise: clients refuse what was written without the tenant's key. The two
are told apart by the words `task` and `result` in what is signed.

The forms in Redis:
    a job's data    ["langgraph_rq.run_task",null,[TASK],{"signature":"<key id>:<hex>"}]
                    over "task\n<id in Redis>\n" and TASK, byte by byte
    a result        {...,"signature":"<key id>:<hex>"}
                    over "result\n<id in Redis>\n" and the document without this last field
    a request       REQUEST <key id>:<hex>
                    over "request\n<thread>\n" and REQUEST, see threads/requests.py
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.tasks import FUNCTION, Task, tenant_of

_LINE = re.compile(r"([a-z0-9]{1,32}):([A-Za-z0-9_.-]{1,32}):(\S+)")
SHORTEST_KEY = 32
"""Characters of a key: `openssl rand -hex 32` writes 64."""

_SIGNATURE = rb'"signature":"([A-Za-z0-9_.-]{1,32}):([0-9a-f]{64})"\}'
_LONGEST_END = 128
_JOB_BEGIN = f'["{FUNCTION}",null,['.encode()
_JOB_END = re.compile(rb"\],\{" + _SIGNATURE + rb"\]\Z")
_REQUEST_END = re.compile(rb"([A-Za-z0-9_.-]{1,32}):([0-9a-f]{64})")
_RESULT_END = re.compile(rb"," + _SIGNATURE + rb"\Z")


class Refused(StrEnum):
    """Why a signature does not hold."""

    UNSIGNED = "unsigned"
    UNKNOWN_KEY = "unknown_key"
    """No key of this id is known."""
    FOREIGN = "foreign"
    """Signed with a key of another tenant."""
    FORGED = "forged"
    """The key of this id did not sign this, under this id."""
    EXPIRED = "expired"
    """The task's deadline, by the time at which it says it was submitted, is over."""


class SignatureError(Exception):
    """A signature does not hold. The message names the tenant, and never a key."""

    def __init__(self, reason: Refused, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TaskKey:
    """A key of a tenant."""

    tenant: str
    key_id: str
    secret: bytes = field(repr=False)

    def sign(self, purpose: str, task_id: str, text: bytes) -> str:
        """Sign a text under the id that the task has in Redis."""
        return hmac.digest(self.secret, f"{purpose}\n{task_id}\n".encode() + text, "sha256").hex()


class TaskKeys:
    """The keys that a process holds. The first of a tenant signs; all are accepted, so that keys can be replaced."""

    def __init__(self, keys: Sequence[TaskKey]) -> None:
        self._keys = {(key.tenant, key.key_id): key for key in keys}
        self._signing = {key.tenant: key for key in reversed(keys)}

    @classmethod
    def parse(cls, text: str) -> "TaskKeys":
        """Read lines `tenant:key id:key`; empty ones and those that begin with # are passed over.

        Raises:
            SettingsError: naming the line, not showing it.
        """
        keys: list[TaskKey] = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if not found or len(found[3]) < SHORTEST_KEY:
                raise SettingsError(
                    f"LGRQ_TASK_KEYS, line {number}: expected tenant:key id:key, "
                    f"the key {SHORTEST_KEY} characters or more"
                )
            if any((key.tenant, key.key_id) == (found[1], found[2]) for key in keys):
                raise SettingsError(f"LGRQ_TASK_KEYS, line {number}: expected another key id, got: {found[2]} again")
            keys.append(TaskKey(found[1], found[2], found[3].encode()))
        if not keys:
            raise SettingsError("LGRQ_TASK_KEYS: expected at least one key, got none")
        return cls(keys)

    @property
    def tenants(self) -> list[str]:
        """The tenants that have a key here."""
        return sorted(self._signing)

    def sign_task(self, task: Task) -> bytes:
        """Encode a task as `Task.job_data` does, signed. Raises SettingsError: its tenant has no key here."""
        key = self._key_of(task.tenant)
        text = task.text().encode()
        signature = f'],{{"signature":"{key.key_id}:{key.sign("task", task.key, text)}"}}]'
        return _JOB_BEGIN + text + signature.encode()

    def check_task(self, task_id: str, data: bytes) -> None:
        """Check the job's data of a task under its id in Redis. Raises SignatureError."""
        end = _JOB_END.search(data, max(0, len(data) - _LONGEST_END))
        if not end or not data.startswith(_JOB_BEGIN):
            raise SignatureError(Refused.UNSIGNED, _expected("task", task_id, "one without a signature"))
        self._check("task", task_id, data[len(_JOB_BEGIN) : end.start()], end)

    def sign_result(self, task_id: str, document: bytes) -> bytes:
        """Sign a result document under its task's id in Redis; unsigned if the tenant has no key here."""
        key = self._signing.get(tenant_of(task_id))
        if key is None:
            return document
        return document[:-1] + f',"signature":"{key.key_id}:{key.sign("result", task_id, document)}"}}'.encode()

    def check_result(self, task_id: str, document: bytes) -> bytes:
        """Check a result document under its task's id; return it without its signature. Raises SignatureError."""
        end = _RESULT_END.search(document, max(0, len(document) - _LONGEST_END))
        if not end:
            raise SignatureError(Refused.UNSIGNED, _expected("result", task_id, "one without a signature"))
        unsigned = document[: end.start()] + b"}"
        self._check("result", task_id, unsigned, end)
        return unsigned

    def sign_request(self, place: str, tenant: str, text: bytes) -> bytes:
        """Add the signature of a request about a thread of a tenant.

        Raises:
            SettingsError: the tenant has no key here.
        """
        key = self._key_of(tenant)
        return b"%b %b:%b" % (text, key.key_id.encode(), key.sign("request", place, text).encode())

    def check_request(self, place: str, text: bytes, signature: bytes) -> None:
        """Check the signature that follows a request's text. Raises SignatureError."""
        end = _REQUEST_END.fullmatch(signature)
        if not end:
            raise SignatureError(Refused.UNSIGNED, _expected("request", place, "one without a signature"))
        self._check("request", place, text, end)

    def _key_of(self, tenant: str) -> TaskKey:
        if tenant not in self._signing:
            raise SettingsError(
                f"LGRQ_TASK_KEYS: expected a key of the tenant {tenant}, got: {', '.join(self.tenants)}"
            )
        return self._signing[tenant]

    def _check(self, purpose: str, task_id: str, text: bytes, end: re.Match[bytes]) -> None:
        key_id, signature = end[1].decode(), end[2].decode()
        key = self._keys.get((tenant_of(task_id), key_id))
        if key is None:
            is_foreign = any(known == key_id for _, known in self._keys)
            reason = Refused.FOREIGN if is_foreign else Refused.UNKNOWN_KEY
            got = f"the key {key_id} of another tenant" if is_foreign else f"the unknown key {key_id}"
            raise SignatureError(reason, _expected(purpose, task_id, got))
        if not hmac.compare_digest(signature, key.sign(purpose, task_id, text)):
            got = f"a signature of {key_id} that is not of this {purpose} under this id"
            raise SignatureError(Refused.FORGED, _expected(purpose, task_id, got))


def unsigned_result(document: bytes) -> bytes:
    """Return a result document without its signature, which is not checked."""
    end = _RESULT_END.search(document, max(0, len(document) - _LONGEST_END))
    return document[: end.start()] + b"}" if end else document


def _expected(purpose: str, task_id: str, got: str) -> str:
    return f"signature: expected a {purpose} signed with a key of the tenant {tenant_of(task_id)}, got: {got}"

"""The one serializer of checkpoints, store and cache: msgpack that names only allowed types, encrypted by setting.

User data never decide what is built: a dict comes back as a dict, whatever its keys are (`lc`, `__send__`), because
only msgpack extensions become objects, and only code writes those. There is no pickle.
"""

from collections.abc import Iterable
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_rq.worker.state.allowed_types import AllowedTypes
from langgraph_rq.worker.state.refused_state import RefusedStateError
from langgraph_rq.worker.state.state_keys import StateKeys

_READ = ormsgpack.OPT_NON_STR_KEYS
_WRITE = (
    ormsgpack.OPT_NON_STR_KEYS
    | ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_REPLACE_SURROGATES
)


class StateSerializer(SerializerProtocol):
    """Writes and reads values of allowed types.

    Args:
        keys: Encrypt what is written.
        types: What may be read and written; shared with the serializers of `at`.
        place: What is written for one place is not read at another, if it is encrypted.
    """

    __slots__ = ("_keys", "_place", "_types")

    def __init__(self, keys: StateKeys | None = None, types: AllowedTypes | None = None, place: str = "") -> None:
        self._keys = keys or StateKeys.parse(None)
        self._types = types or AllowedTypes()
        self._place = self._keys.place(place)

    @property
    def is_plain(self) -> bool:
        """Whether what is written is not encrypted."""
        return self._keys.is_plain

    def allow(self, types: Iterable[type]) -> None:
        """Allow further types, here and in every serializer that `at` made."""
        self._types.allow(types)

    def at(self, place: str) -> "StateSerializer":
        """Return the serializer of a place, such as a thread."""
        return StateSerializer(self._keys, self._types, place)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Write a value.

        Raises:
            RefusedStateError: it holds a type that is not allowed.
        """
        return self._place.seal(*self._dump(obj))

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read a value, which may be anything that a client put into Redis.

        Raises:
            RefusedStateError: it names a type that is not allowed, does not decrypt, or is damaged.
        """
        return self._load(*self._place.open(*data))

    def check_plain(self) -> None:
        """Raise RefusedStateError: what is not encrypted is not read here."""
        self._place.open("null", b"")

    def _dump(self, value: Any) -> tuple[str, bytes]:
        if value is None:
            return "null", b""
        if isinstance(value, bytes | bytearray):
            return "bytes" if isinstance(value, bytes) else "bytearray", bytes(value)
        writing = _Writing(self._types)
        try:
            return "msgpack", ormsgpack.packb(value, default=writing, option=_WRITE)
        except (TypeError, ValueError) as error:
            raise writing.problem or RefusedStateError(f"state: expected what msgpack can hold: {error}") from error

    def _load(self, kind: str, data: bytes) -> Any:
        if kind == "null":
            return None
        if kind == "bytes":
            return data
        if kind == "bytearray":
            return bytearray(data)
        if kind != "msgpack":
            raise RefusedStateError(f"state: expected msgpack, got: {kind[:20]!r}")
        reading = _Reading(self._types)
        try:
            return ormsgpack.unpackb(data, ext_hook=reading, option=_READ)
        except (TypeError, ValueError) as error:
            raise reading.problem or RefusedStateError(f"state: expected msgpack, got: {error}") from error


class _Writing:
    """Writes the values that msgpack does not know. ormsgpack drops what a hook raises: the first problem is kept."""

    __slots__ = ("_types", "problem")

    def __init__(self, types: AllowedTypes) -> None:
        self._types = types
        self.problem: RefusedStateError | None = None

    def __call__(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            return repr(value)  # as LangGraph keeps the error of a node
        try:
            form = self._types.of(value)
            return ormsgpack.Ext(form.code, ormsgpack.packb(form.pack(value), default=self, option=_WRITE))
        except Exception as error:
            self.problem = self.problem or _refused(error, f"{type(value).__qualname__} cannot be written")
            raise


class _Reading:
    """Builds the values of extensions, innermost first, and keeps the first problem."""

    __slots__ = ("_types", "problem")

    def __init__(self, types: AllowedTypes) -> None:
        self._types = types
        self.problem: RefusedStateError | None = None

    def __call__(self, code: int, data: bytes) -> Any:
        try:
            return self._types.build(code, ormsgpack.unpackb(data, ext_hook=self, option=_READ))
        except Exception as error:
            self.problem = self.problem or _refused(error, "an object cannot be built")
            raise


def _refused(error: Exception, what: str) -> RefusedStateError:
    if isinstance(error, RefusedStateError):
        return error
    return RefusedStateError(f"state: {what}: {type(error).__name__}: {str(error)[:500]}")

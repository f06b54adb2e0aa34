"""How records are written: as checkpoints are, encrypted or not."""

from typing import Any, Protocol


class Codec(Protocol):
    """Writes and reads values; `worker.state.serializer.StateSerializer` is one."""

    def at(self, place: str) -> "Codec":
        """Return the codec of a place: what was encrypted for one place cannot be read at another."""
        ...

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Write a value, as its kind and its bytes."""
        ...

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Read it."""
        ...


def seal(codec: Codec, place: str, value: Any) -> bytes:
    """Write a value for one place, as one text."""
    kind, data = codec.at(place).dumps_typed(value)
    return kind.encode() + b"\n" + data


def unseal(codec: Codec, place: str, text: bytes) -> Any:
    """Read what `seal` wrote."""
    kind, _, data = text.partition(b"\n")
    return codec.at(place).loads_typed((kind.decode(errors="replace"), data))

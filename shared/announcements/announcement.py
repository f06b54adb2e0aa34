"""What workers announce of themselves as a JSON object in Redis, and others read."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json


@dataclass(frozen=True, slots=True)
class Announcement:
    """The base of what is announced; all fields of a subclass have defaults."""

    @classmethod
    def read(cls, announcement: bytes | None) -> Self:
        """Read what a worker announced; what cannot be read, or was announced in another form, has the defaults."""
        try:
            found: Self = _adapter(cls).validate_json(announcement or b"{}")  # type: ignore[arg-type] # a class is hashable
        except ValidationError:
            return cls()
        return found

    def announcement(self) -> str:
        """Write what `read` reads."""
        return to_json(asdict(self)).decode()


@cache
def _adapter(kind: type[Announcement]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)

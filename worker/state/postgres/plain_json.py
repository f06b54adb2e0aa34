"""Values as Postgres' JSON can hold them."""

import math
from typing import Any


def plain_json(value: Any) -> Any:
    """Return a value without what jsonb refuses: NUL and lone surrogates in text, NaN; other types as text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value.replace("\0", "").encode("utf-8", "replace").decode()
        case dict():
            return {plain_json(str(key)): plain_json(one) for key, one in value.items()}
        case list() | tuple():
            return [plain_json(one) for one in value]
        case _:
            return plain_json(str(value))

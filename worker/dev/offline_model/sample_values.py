"""Sample values from the words of a question: a complexity label, or JSON that fits a schema.

Pure functions, so that answers are the same on every machine. Numeric properties get the question's numbers in order;
strings get its quoted text, then its capitalised names. `pattern` and `uniqueItems` are ignored.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langgraph_rq.worker.dev.offline_model.errors import Json

LABELS = ("simple", "medium", "complex")

_COMPLEX_WORDS = re.compile(r"\b(design|prove|derive|architect\w*|trade-?offs?|optimi[sz]e|in depth)\b", re.IGNORECASE)
_MEDIUM_WORDS = re.compile(r"\b(why|how|explain|compare|difference|summari[sz]e|pros and cons)\b", re.IGNORECASE)
_COMPLEX_LENGTH = 40
_MEDIUM_LENGTH = 15
"""More words than this make a question complex or medium, regardless of its content."""

_QUOTED = re.compile(r"""["“]([^"“”]+)["”]|`([^`]+)`|(?<!\w)'([^']+)'(?!\w)""")
_NAME = re.compile(r"(?<!^)(?<![.?!]\s)\b[A-Z]\w+(?:,? [A-Z]\w+)*")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?|(?<=-)\d+")

_WHOLE_QUESTION = {"content", "input", "message", "prompt", "q", "query", "question", "text"}
"""String properties with these names get the whole question."""

_FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "time": "03:04:05Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

_MAX_DEPTH = 8
"""Limit for recursive schemas: deeper, only required properties are filled, with null if allowed."""


def complexity_of(question: str) -> str:
    """Label a question `simple`, `medium` or `complex` by its length and by words such as "why" or "design"."""
    words = len(question.split())
    if words > _COMPLEX_LENGTH or _COMPLEX_WORDS.search(question):
        return "complex"
    if words > _MEDIUM_LENGTH or _MEDIUM_WORDS.search(question):
        return "medium"
    return "simple"


def quoted_parts(question: str) -> list[str]:
    """List the quoted parts of a question, in order."""
    return ["".join(groups) for groups in _QUOTED.findall(question)]


def value_that_fits(schema: Json, question: str) -> Any:
    """Make a value that fits a JSON schema, without optional properties that have a default."""
    return _Filler(schema, question).fill(schema)


def occurs(word: str, text: str) -> bool:
    """Return whether `text` contains `word` as a whole word, ignoring case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


class _Filler:
    """Fills one schema; each number and each phrase of the question is used once."""

    def __init__(self, root: Json, question: str) -> None:
        self._root = root
        self._question = question
        self._numbers = [float(number.replace(",", "")) for number in _NUMBER.findall(question)]
        self._phrases = iter(quoted_parts(question) + _NAME.findall(_QUOTED.sub(" ", question)))

    def fill(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return _choose(schema["enum"], self._question)
        branches = schema.get("anyOf") or schema.get("oneOf")
        if branches:
            return self.fill(self._branch(branches, depth), name, depth + 1)
        return self._fillers[_type_of(schema)](self, schema, name, depth)

    def _resolve(self, schema: Any) -> Json:
        """Follow references and merge `allOf`; the schema `true` becomes an empty one."""
        if not isinstance(schema, dict):
            return {}
        if "$ref" in schema:
            target: Any = self._root
            for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
                target = target[step] if step else target
            return self._resolve({**target, **{key: value for key, value in schema.items() if key != "$ref"}})
        for part in schema.get("allOf", ()):
            schema = {**schema, **self._resolve(part)}
        return dict(schema)

    def _branch(self, branches: Sequence[Any], depth: int) -> Any:
        nulls = [branch for branch in branches if branch == {"type": "null"}]
        if nulls and depth >= _MAX_DEPTH:
            return nulls[0]
        return next((branch for branch in branches if branch not in nulls), branches[0])

    def _object(self, schema: Json, _name: str, depth: int) -> Json:
        required = schema.get("required", ())
        return {
            name: self.fill(value, name, depth + 1)
            for name, value in schema.get("properties", {}).items()
            if name in required or ("default" not in value and depth < _MAX_DEPTH)
        }

    def _array(self, schema: Json, name: str, depth: int) -> list[Any]:
        items = schema.get("prefixItems") or list(self._items(schema, depth))
        return [self.fill(item, name, depth + 1) for item in items]

    def _items(self, schema: Json, depth: int) -> Iterator[Any]:
        """Yield one item, or all remaining numbers for a list of numbers, or as many as the schema requires."""
        item = self._resolve(schema.get("items", {}))
        wanted = len(self._numbers) if _type_of(item) in {"integer", "number"} else int(depth < _MAX_DEPTH)
        count = max(wanted, schema.get("minItems", 0))
        return (item for _ in range(min(count, schema.get("maxItems", count))))

    def _string(self, schema: Json, name: str, _depth: int) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = self._question if name in _WHOLE_QUESTION else next(self._phrases, self._question)
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]

    def _integer(self, schema: Json, _name: str, _depth: int) -> int:
        return int(_within(schema, int(self._next_number()), step=1))

    def _number(self, schema: Json, _name: str, _depth: int) -> float:
        return _within(schema, self._next_number(), step=0.5)

    def _next_number(self) -> float:
        return self._numbers.pop(0) if self._numbers else 1.0

    def _boolean(self, _schema: Json, _name: str, _depth: int) -> bool:
        return True

    def _null(self, _schema: Json, _name: str, _depth: int) -> None:
        return None

    _fillers: dict[str, Callable[["_Filler", Json, str, int], Any]] = {  # noqa: RUF012 - read only
        "object": _object,
        "array": _array,
        "string": _string,
        "integer": _integer,
        "number": _number,
        "boolean": _boolean,
        "null": _null,
    }


def _type_of(schema: Json) -> str:
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    return str(kind) if isinstance(kind, str) else next((one for one in kind if one != "null"), "null")


def _choose(options: Sequence[Any], question: str) -> Any:
    """Choose the question's label among labels, else the option named in the question, else the first."""
    labels = {str(option).lower(): option for option in options}
    if set(LABELS) <= set(labels):
        return labels[complexity_of(question)]
    return next((option for option in options if isinstance(option, str) and occurs(option, question)), options[0])


def _within(schema: Json, value: float, step: float) -> float:
    """Move `value` into the schema's bounds and onto its `multipleOf`; `step` is the distance to exclusive bounds."""
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf) + step)
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf) - step)
    if low > high:  # exclusive bounds closer than two steps
        low = high = (low + high) / 2
    value = min(max(value, low), high)
    unit: float = schema.get("multipleOf", 0)
    if not unit or value % unit == 0:
        return value
    above = value - value % unit + unit
    return above if above <= high else above - unit

"""Read the Lua files of the product: header, body, and the Redis calls in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.installation import ROOT

NAMES = sorted(
    str(file.relative_to(ROOT).with_suffix(""))
    for part in ("shared", "worker", "producer")
    for file in (ROOT / part).rglob("*.lua")
)

Uses = dict[str, set[str]]
"""File -> the names of it that a script's header lists."""


@dataclass(frozen=True, slots=True)
class LuaFile:
    """One file. Its header are the comments before its first line of code."""

    name: str
    header: str
    body: str

    @property
    def uses(self) -> Uses:
        """What the header's lines `-- Uses file: name, name` list; a line may go on in the next one."""
        entries = re.findall(r"^-- Uses ([\w/]+): (.*(?:\n--   .*)*)", self.header, re.MULTILINE)
        return {file: set(re.findall(r"\w+", names)) for file, names in entries}

    @property
    def calls(self) -> set[str]:
        """The scripts that the header's lines `-- Calls file` name."""
        return set(re.findall(r"^-- Calls ([\w/]+)$", self.header, re.MULTILINE))

    @property
    def defined(self) -> set[str]:
        """The functions and values that the file defines for others."""
        found = re.findall(r"^local (?:function (\w+)|(\w+(?:, \w+)*) =)", self.body, re.MULTILINE)
        return {name for function, values in found for name in (function or values).split(", ")}

    @property
    def words(self) -> set[str]:
        """Every name in the code, without comments and strings."""
        return set(re.findall(r"(?<![\w.:])[A-Za-z_]\w*", re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", self.body)))


@cache
def read_lua(name: str) -> LuaFile:
    """Read one file as it stands, without what the loader puts before it."""
    lines = (ROOT / f"{name}.lua").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith(("--", "#!")))
    body = "\n".join(re.sub(r"\s*--.*", "", line) for line in lines[first:])
    return LuaFile(name, "\n".join(lines[:first]), body)


def calls_in(code: str) -> Iterator[list[str]]:
    """Yield the arguments of each `redis.call` and `redis.pcall`, and those of `fence` as if it were an HMGET."""
    for match in re.finditer(r"(redis\.p?call|(?<!function )\bfence)\(", code):
        arguments = _arguments(code, match.end())
        yield ["'HMGET'", arguments[0], *arguments[3:]] if match[1] == "fence" else arguments


def _arguments(code: str, start: int) -> list[str]:
    """Split the arguments of a call whose parenthesis opens before `start`."""
    depth, quote, arguments = 0, "", [""]
    for sign in code[start:]:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "({[":
            depth += 1
        elif sign in ")}]":
            if not depth:
                break
            depth -= 1
        elif sign == "," and not depth:
            arguments.append("")
            continue
        arguments[-1] += sign
    return [argument.strip() for argument in arguments]


def literals(arguments: list[str]) -> set[str]:
    """Return the strings among `arguments`, also those of choices such as `x and 'a' or 'b'`."""
    return {text for argument in arguments if ".." not in argument for text in re.findall(r"'([^']*)'", argument)}

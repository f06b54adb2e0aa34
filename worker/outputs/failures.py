"""What is told of an exception that ended a task: its node, class, message, frames and causes, as far as is allowed.

A frame is a file, a line and a function: neither source nor values, since both may hold what users wrote. Those of the
user's own code are marked; the others are of Python, of installed packages and of this one.
"""

import re
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache, lru_cache
from pathlib import Path
from traceback import walk_tb
from types import CodeType
from typing import Any

MESSAGE_CHARS = 1_000
"""Longest message of a cause; that of the failure itself has the limit of a result's."""
_FRAMES = 30
"""Frames of one exception, those nearest to where it was raised."""
_CAUSES = 5
_PACKAGE = Path(__file__).resolve().parents[2]

_NOTE = re.compile(r"During task with name '(.*)' and id '.*'", re.DOTALL)
"""The note that LangGraph adds to an exception of a node; around it, those of the nodes that run the node's graph."""


class ErrorDetail(StrEnum):
    """How much is told; each member tells also what those before it do."""

    CLASS = "class"
    MESSAGE = "message"
    FRAMES = "frames"


@dataclass(frozen=True, slots=True)
class Frame:
    """One call; `file` is relative to where the process runs, or where packages are installed, if it is below it."""

    file: str
    line: int
    function: str
    user: bool
    """Whether the code is the user's own."""

    def __str__(self) -> str:
        return f"{'>' if self.user else ' '} {self.file}:{self.line} {self.function}"


@dataclass(frozen=True, slots=True)
class Cause:
    """An exception, in the words of a result."""

    exception: str
    """Its class, with its module unless that is Python's own."""
    message: str
    frames: tuple[Frame, ...] = ()
    """In the order of the calls, the last of which raised."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told of why a task failed."""

    exception: str | None
    """None: it was no exception."""
    node: str | None = None
    """The node that raised it: outer|inner in a subgraph. Several that ran, where it is not known which."""
    frames: tuple[Frame, ...] = ()
    causes: tuple[Cause, ...] = ()
    """What it was raised from, the nearest first, and what exceptions of a group there are."""

    def fields(self) -> dict[str, Any]:
        """Return it as fields of a result's error."""
        return {name: value for name, value in asdict(self).items() if value}


def describe(error: BaseException, detail: ErrorDetail) -> Failure:
    """Describe an exception that was caught, in as much detail as is allowed."""
    if detail is ErrorDetail.CLASS:
        return Failure(_class_of(error), _node_of(error))
    frames = _frames if detail is ErrorDetail.FRAMES else _no_frames
    causes = tuple(Cause(_class_of(one), _message_of(one), frames(one)) for one in _causes_of(error))
    return Failure(_class_of(error), _node_of(error), frames(error), causes)


def lines(error: Mapping[str, Any], *, has_messages: bool = True) -> list[str]:
    """Return the frames and causes of a result's error as lines of text, for RQ's tools, logs and spans."""

    def shown(frames: Any) -> list[str]:
        return [str(Frame(**frame)) for frame in frames or ()]

    found = shown(error.get("frames"))
    for cause in error.get("causes") or ():
        message = f": {cause['message']}" if has_messages else ""
        found += [f"from {cause['exception']}{message}", *shown(cause.get("frames"))]
    return found


def _class_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message_of(error: BaseException) -> str:
    try:
        return str(error)[:MESSAGE_CHARS]
    except Exception:  # a class of the user's
        return ""


def _node_of(error: BaseException) -> str | None:
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    # A retry policy adds the note again at each try.
    ids = dict.fromkeys(note for note in notes if _NOTE.fullmatch(note))
    names = [match[1] for note in ids if (match := _NOTE.fullmatch(note))]
    return "|".join(reversed(names)) or None


def _causes_of(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    for one in _below(error):
        if len(found) == _CAUSES:
            break
        if one is not error and one not in found:
            found.append(one)
    return found


def _below(error: BaseException) -> Iterator[BaseException]:
    """Yield what led to an exception; may go in circles."""
    inner: BaseException | None = error
    for _ in range(2 * _CAUSES):
        if inner is None:
            return
        yield inner
        if isinstance(inner, BaseExceptionGroup):
            yield from inner.exceptions[:_CAUSES]
        inner = inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)


def _no_frames(_error: BaseException) -> tuple[Frame, ...]:
    return ()


def _frames(error: BaseException) -> tuple[Frame, ...]:
    calls = list(walk_tb(error.__traceback__))[-_FRAMES:]
    return tuple(_frame(frame.f_code, line) for frame, line in calls)


def _frame(code: CodeType, line: int) -> Frame:
    file, is_user = _place(code.co_filename)
    return Frame(file, line, code.co_qualname, is_user)


@lru_cache(maxsize=1_000)
def _place(file: str) -> tuple[str, bool]:
    """Return a file as it is shown, and whether it is the user's own."""
    if file.startswith("<"):  # code without a file
        return file, False
    path = Path(file).resolve()
    for root in _roots():
        if path.is_relative_to(root):
            return str(path.relative_to(root)), False
    if any(path.is_relative_to(_PACKAGE / name) for name in ("worker", "shared", "producer")):
        return f"langgraph_rq/{path.relative_to(_PACKAGE)}", False  # a checkout
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path), True


@cache
def _roots() -> tuple[Path, ...]:
    """Return where packages and Python are installed."""
    paths = sysconfig.get_paths()
    return tuple(Path(paths[name]).resolve() for name in ("purelib", "platlib", "stdlib", "platstdlib"))

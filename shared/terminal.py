"""Writing to the terminal: the one place where commands do, so that data of users and graphs cannot control it.

On a terminal what is written fits its width. In a pipe or a file nothing is wrapped, cut or coloured: a row is a line.
"""

import codecs
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from pydantic_core import to_json
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from langgraph_rq.shared.control_characters import visible, visible_json, visible_lines

_ESCAPE = "langgraph_rq.escape"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write characters as JSON does where an encoding has none of them."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex(" ", 2).split()
    return "".join(f"\\u{unit}" for unit in units), error.end


codecs.register_error(_ESCAPE, _escaped)


def accept_any_text() -> None:
    """Let stdout take all characters, whatever its encoding: escaped as in JSON, which stays the same value."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPE)


errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""The console for everything that is not a result."""

_UNBOUNDED = 1_000_000
"""Columns of a pipe."""
_GAP = 2
_NARROWEST = 24
"""Columns that a text of several words needs to be readable."""
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `Rows`.

    Args:
        title: Its heading.
        right: Whether it holds numbers.
        wraps: Whether it holds texts, which may take several lines where the terminal is narrow.
    """

    title: str
    right: bool = False
    wraps: bool = False


class _Unpadded(Table):
    """A table whose lines end with the text of their last cell."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Segment.split_lines(super().__rich_console__(console, options)):  # type: ignore[arg-type]
            end = max((number for number, one in enumerate(line, 1) if one.text.strip(" ")), default=0)
            yield from line[: max(0, end - 1)]
            yield from (Segment(one.text.rstrip(" "), one.style) for one in line[max(0, end - 1) : end])
            yield Segment.line()


class Rows:
    """A table, or where the terminal is too narrow for it, a block of lines for each row: a cell is never cut.

    A narrow terminal does not show columns that are empty in every row.
    """

    def __init__(self, *columns: Column | str) -> None:
        self._columns = [Column(one) if isinstance(one, str) else one for one in columns]
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: Text | str | None) -> None:
        """Add a row; a dash stands for None."""
        self._rows.append([one if isinstance(one, Text) else Text(_NONE if one is None else one) for one in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        every = range(len(self._columns))
        filled = [number for number in every if any(row[number].plain != _NONE for row in self._rows)]
        for numbers in (every, filled):
            if self._width(numbers) <= options.max_width:
                yield self._table(numbers)
                return
        yield from self._blocks()

    def _width(self, numbers: Sequence[int]) -> int:
        """Return the fewest characters of the terminal that a table of these columns needs."""
        return sum(map(self._width_of, numbers)) + _GAP * (len(numbers) - 1)

    def _width_of(self, number: int) -> int:
        column = self._columns[number]
        lines = [column.title, *(line for row in self._rows for line in row[number].plain.splitlines())]
        widest = max(cell_len(visible(line)) for line in lines)
        return min(widest, _NARROWEST) if column.wraps else widest

    def _table(self, numbers: Sequence[int]) -> Table:
        table = _Unpadded(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
        for number in numbers:
            column = self._columns[number]
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                min_width=self._width_of(number),
                no_wrap=not column.wraps,
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*(row[number] for number in numbers))
        return table

    def _blocks(self) -> Iterator[RenderableType]:
        for number, row in enumerate(self._rows):
            if number:
                yield Text()
            block = pairs()
            for column, cell in zip(self._columns, row, strict=True):
                if cell.plain != _NONE:
                    block.add_row(column.title, cell)
            yield block


def pairs() -> Table:
    """Return an empty table of names and values, a pair per line."""
    grid = _Unpadded.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


class _Visible:
    """A renderable whose texts have no control characters; the colours are those that it chose itself."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._renderable, options):
            if not control:
                yield Segment(visible_lines(text), style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._renderable)


def write(value: Mapping[str, Any] | RenderableType) -> None:
    """Write to stdout: documents as a line of JSON, a text as a line, anything else laid out for the terminal."""
    if isinstance(value, Mapping):
        write_json(_encoded(value))
    elif isinstance(value, str):
        click.echo(visible(value))
    else:
        _results().print(_Visible(value), crop=False)  # an escape is longer than what it stands for


def _results() -> Console:
    plain = Console(highlight=False, markup=False, emoji=False)
    if plain.file.isatty():
        return plain
    return Console(
        highlight=False, markup=False, emoji=False, width=_UNBOUNDED, color_system=None, force_terminal=False
    )


def write_json(encoded: str) -> None:
    """Write a line of JSON to stdout."""
    click.echo(visible_json(encoded))


def report(message: str, style: str = "red") -> None:
    """Write a line to stderr."""
    errors.print(Text(visible(message)), style=style, soft_wrap=True)


def _encoded(value: Mapping[str, Any] | Sequence[Any]) -> str:
    try:
        return to_json(value).decode()
    except ValueError:  # half of a surrogate pair
        return json.dumps(value, default=str)

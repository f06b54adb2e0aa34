"""Writing to the terminal: the one place where commands do, so that data of users and graphs cannot control it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from pydantic_core import to_json
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from langgraph_rq.shared.control_characters import visible, visible_json, visible_lines

errors = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""The console for everything that is not a result."""


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


def write(value: Mapping[str, Any] | RenderableType, *, soft_wrap: bool = False) -> None:
    """Write to stdout: documents as a line of JSON, a text as a line, anything else laid out for the terminal."""
    if isinstance(value, Mapping):
        write_json(_encoded(value))
    elif isinstance(value, str):
        click.echo(visible(value))
    else:
        Console(highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap).print(
            _Visible(value),
            crop=False,  # an escape is longer than what it stands for
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

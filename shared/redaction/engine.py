r"""RE2, which runs a pattern in time linear in the text, whatever the pattern and the text are.

Patterns and texts are bytes in UTF-8, so that the offsets of matches need no conversion. RE2's syntax is that of Python
without look-around and back references, and `\w`, `\d`, `\s` and `\b` mean ASCII.

Source: https://github.com/google/re2/wiki/Syntax
"""

import re
from typing import Any

from langgraph_rq.shared.errors import SettingsError

_ANY_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")


def compile_shape(pattern: str, *, by_line: bool) -> Any:
    """Compile a pattern of ours; with `by_line` it matches within a line, whatever it says.

    Raises:
        SettingsError: the library is not installed.
    """
    try:
        import re2  # noqa: PLC0415 - a service that only submits masks nothing and does not need it
    except ImportError:
        raise SettingsError(
            "masking: expected google-re2, of the extras worker, api, dashboard: pip install 'langgraph-rq[worker]'"
        ) from None
    options = re2.Options()
    options.log_errors = False
    options.never_nl = by_line
    return re2.compile(pattern.encode(), options)


def compile_own(name: str, pattern: str) -> Any:
    """Compile a user's pattern, which is searched line by line.

    Raises:
        ValueError: naming the pattern and what in it RE2 cannot run in linear time, or does not understand.
    """
    reason = ""
    if _ANY_BYTE.search(pattern):
        reason = "\\C may match a part of a character"
    else:
        try:
            compile_shape(pattern, by_line=True)  # by itself first, for the message
            return compile_shape(f"(?m:{pattern})", by_line=True)
        except SettingsError:
            raise
        except Exception as error:  # re2.error, which is known only where the library is installed
            why = error.args[0] if error.args else error
            reason = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
    raise ValueError(
        f"pattern {name}: expected a regular expression that RE2 runs (no look-around, no back references), "
        f"got: {pattern} ({reason})"
    )

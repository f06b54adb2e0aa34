"""Programs on a terminal of a given width, and in a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

from tests.installation import ROOT, clean_environment

TIMEOUT_S = 30
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OF_TERMINALS = {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}


def in_terminal(
    command: Sequence[str], width: int, environment: Mapping[str, str] | None = None, *, exit_code: int = 0
) -> str:
    """Run a program on a terminal of so many columns; returns what it writes to stdout there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = _start(command, theirs, environment)
    os.close(theirs)
    got = b""
    while chunk := _read(ours):
        got += chunk
    os.close(ours)
    assert process.wait(TIMEOUT_S) == exit_code, got
    return got.decode().replace("\r\n", "\n")


def in_pipe(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a program whose stdout is a pipe; returns what it writes."""
    process = _start(command, subprocess.PIPE, environment)
    got, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, got
    return got.decode()


def lines(text: str) -> list[str]:
    """Return the lines without colours, and without the blanks at their ends."""
    return [line.rstrip() for line in COLOURS.sub("", text).splitlines()]


def _start(command: Sequence[str], stdout: int, environment: Mapping[str, str] | None) -> "subprocess.Popen[bytes]":
    inherited = {name: value for name, value in clean_environment({}).items() if name not in _OF_TERMINALS}
    of_program = {**inherited, "TERM": "xterm-256color", **(environment or {})}
    return subprocess.Popen(command, cwd=ROOT, env=of_program, stdin=subprocess.DEVNULL, stdout=stdout)


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # the other end is closed
        return b""

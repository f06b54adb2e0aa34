"""A command on a terminal of its own, as a person starts it: with what the terminal shows, and its keyboard."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from tests.installation import START_TIMEOUT_S, clean_environment
from tests.waiting import until_sync

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal that of the session, so that Ctrl-C reaches the processes in its foreground."""


@dataclass
class TerminalSession:
    """A running command and what its terminal has got."""

    process: "subprocess.Popen[bytes]"
    keyboard: int
    shown: bytearray = field(default_factory=bytearray)

    @property
    def lines(self) -> list[str]:
        """The lines, without colours."""
        return _COLOURS.sub("", self.shown.decode(errors="replace")).splitlines()

    def with_text(self, text: str) -> list[str]:
        """Return the lines that have this text."""
        return [line for line in self.lines if text in line]

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until so many lines have this text."""
        try:
            until_sync(lambda: len(self.with_text(text)) >= times, START_TIMEOUT_S)
        finally:
            assert len(self.with_text(text)) >= times, "\n".join(self.lines)

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C."""
        os.write(self.keyboard, b"\x03")


@contextmanager
def on_terminal(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[TerminalSession]:
    """Run a Python module with its arguments on a terminal, until the end of the block."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_TERMINAL, sys.executable, "-P", "-m", *command],
        cwd=folder,
        env=clean_environment({"TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    session = TerminalSession(process, ours)
    reading = Thread(target=_read, args=(ours, session.shown), daemon=True)
    reading.start()
    try:
        yield session
    finally:
        process.kill()
        process.wait()
        reading.join(START_TIMEOUT_S)
        os.close(ours)


def _read(terminal: int, shown: bytearray) -> None:
    while True:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # Linux says so when all processes have closed the other end
            return
        shown += piece

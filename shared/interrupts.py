"""Ctrl-C before a command runs: it ends with exit code 130, without Python's traceback.

The libraries of a command take seconds to import. This module imports none of them.
"""

import os
import signal

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells write the end by SIGINT."""


def end_on_ctrl_c() -> None:
    """End the process at SIGINT until another handler is set; one that is ignored, as by nohup, stays ignored.

    KeyboardInterrupt would not do: libraries that are interrupted while they are imported catch it, or raise others.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_on_ctrl_c() -> None:
    """Let SIGINT raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_signal: object) -> None:
    os._exit(INTERRUPTED)

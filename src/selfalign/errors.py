"""The errors a user can meet; the command line prints `UserError` as one line, without a traceback.

Everything that is not listed here is a defect of ours or of a library, and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class UserError(Exception):
    """Bad input or options: the message says what is wrong, where, and how to mend it (exit code 2)."""


class SeedError(UserError, ValueError):
    """A seed file that cannot be read as it stands; the message names file, line and field."""


class RunFailed(Exception):
    """A run that could not go on (exit code 1): the message says why, the run folder stays resumable."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM. Not an `Exception`, so that no `except Exception` on the way swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.signal_number = signal_number


def reason(error: BaseException) -> str:
    """An expected error speaks for itself; a defect is named with its type."""
    expected = isinstance(error, (Interrupted, RunFailed, UserError))
    return str(error) if expected else f"{type(error).__name__}: {error}"


def in_a_line(error: BaseException) -> str:
    """What a library raised, for the middle of a sentence: the first line of it, with its type where it says nothing else."""
    lines = str(error).strip().splitlines()
    named = isinstance(error, (OSError, ValueError)) and not isinstance(error, UnicodeError)
    text = " ".join(lines[0].split())[:400] if lines else ""
    return text if named and text else f"{type(error).__name__}: {text}" if text else type(error).__name__


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Pending:
    """The signal that came, for code that asks: a library's bare `except:` may have swallowed the exception."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def handle_signals() -> Iterator[Pending]:
    """Inside the block the first SIGINT or SIGTERM raises `Interrupted` in the main thread, a second one exits at once.

    A first signal that something swallowed is raised again at the end of the block, or by `check`. Does nothing outside
    the main thread, where Python has no signal handlers.
    """
    pending = Pending()
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if pending.number is not None:
            os._exit(128 + number)
        pending.number = number
        raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield pending
        pending.check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent() -> None:
    """Ends this process when its standard input does: a parent that holds the other end cannot be outlived, however it dies."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

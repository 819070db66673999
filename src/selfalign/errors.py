"""The errors a user can meet; the command line prints `UserError` as one line, without a traceback.

Everything that is not listed here is a defect of ours or of a library, and keeps its traceback.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class UserError(Exception):
    """Bad input or options: the message says what is wrong, where, and how to mend it (exit code 2)."""


class SeedError(UserError, ValueError):
    """A seed file that cannot be read as it stands; the message names file, line and field."""


class RunFailed(Exception):
    """A run that could not go on (exit code 1): the message says why, the run folder stays resumable."""


class ProcessDied(RunFailed):
    """The process that a part has do its work ended before its answer; the work as such may be in order."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM. Not an `Exception`, so that no `except Exception` on the way swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}")
        self.signal_number = signal_number


class TimeUp(Interrupted):
    """The hours that a run was given are over. Its work is committed, and the same call goes on."""

    def __init__(self, hours: float) -> None:
        BaseException.__init__(self, f"the {hours:g} hours that it was given are over")
        self.signal_number = 0


def reason(error: BaseException) -> str:
    """An expected error speaks for itself; a defect is named with its type. Without passwords: it is kept in the record."""
    expected = isinstance(error, (Interrupted, RunFailed, UserError))
    return without_passwords(str(error) if expected else f"{type(error).__name__}: {error}")


def refuse(part: object, must: str = "", **wrong: bool) -> None:
    """Raises ValueError: the first of a part's fields, by their names, out of range; with its value and what it `must`."""
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        range = f"{type(part).__name__}: {name} = {getattr(part, name)!r} is out of range"
        raise ValueError(f"{range}: {must}" if must else range)


def without_passwords(text: str) -> str:
    """With *** for user and password of every address in a text: messages name what was typed, and are passed on."""
    return _CREDENTIALS.sub(r"\1***@", text)


# A password may hold what should have been encoded, an @ or a slash: rather too much is hidden than too little. Of a path two
# slashes have become one.
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]+:/{1,3})(?:[^\s/:@'\"<>]*:[^\s'\"<>]*@|[^\s/?#'\"<>]*@)", re.IGNORECASE)


@contextmanager
def no_exit(where: str) -> Iterator[None]:
    """Inside the block `sys.exit` ends no program: with code 0 a run that broke off would look like one that is done.

    Raises:
        RunFailed: it was tried; the message has `where` and the line.
    """
    try:
        yield
    except SystemExit as stop:
        raise RunFailed(f"{where}: {exit_place(stop)}") from stop


def exit_place(stop: SystemExit) -> str:
    """A line on a part's code that tried to end the program."""
    last = traceback.extract_tb(stop.__traceback__)[-1:]
    place = f" in {Path(last[0].filename).name}, line {last[0].lineno}" if last else ""
    return f"ends the program{place} (exit code {stop.code!r}), which a part must not; raise an error instead"


def in_a_line(error: BaseException) -> str:
    """What a library raised, for the middle of a sentence: its first line, with the next one where that only announces it, or its
    type if it has no text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].rstrip().endswith(":"):
        lines[0] = " ".join(lines[:2])
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

    A first signal that something swallowed is raised again at the end of the block, or by `check`; so is one of which a library
    made an error of its own, as SQLite does of what a function it calls raises. Does nothing outside the main thread, where
    Python has no signal handlers.
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
    except (Exception, KeyboardInterrupt) as error:
        if pending.number is None:
            raise
        raise Interrupted(pending.number) from error
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

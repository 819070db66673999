"""The errors a user can meet; the command line prints `UserError` as one line, without a traceback.

Everything that is not listed here is a defect of ours or of a library, and keeps its traceback.
"""

from __future__ import annotations


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

"""Ctrl-C and SIGTERM end a run soon and in order; a second signal ends it at once. Nothing committed hangs on either."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from selfalign.errors import Interrupted

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

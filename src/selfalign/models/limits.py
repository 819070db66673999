"""Limits of what a model's own program, its chat template, may take of time and memory: it can loop for ever or double a text."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from selfalign.errors import UserError

SECONDS = 2.0
"""Of the processor, for one conversation; a real template takes a thousandth."""
MEMORY = 2**30
"""Bytes beside what the process has."""
LENGTH = 2**22
"""Characters that it may write besides the texts it is given, and their number four times over."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends what runs inside the block with a TimeoutError or a MemoryError where it takes too much.

    Memory is limited where the system says how much is in use (Linux), time in the main thread, where Python has signals.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = 0
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY
    lower = pages > 0 and (before[0] == resource.RLIM_INFINITY or most < before[0])
    timed = threading.current_thread() is threading.main_thread()
    try:
        if lower:
            resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        if timed:
            handler = signal.signal(signal.SIGVTALRM, _too_long)
            timer = signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
            signal.signal(signal.SIGVTALRM, handler)
        if lower:
            resource.setrlimit(resource.RLIMIT_AS, before)


def check_length(text: str, given: int) -> str:
    """Raises UserError: a text far longer than the `given` characters that it was made of."""
    if len(text) > LENGTH + 4 * given:
        raise UserError(f"it writes {len(text):,} characters around texts of {given:,}")
    return text


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"it takes longer than {SECONDS:.0f} s")

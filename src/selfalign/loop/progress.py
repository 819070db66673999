"""What a person who waits for a run is told: a bar on a terminal and in a notebook, lines everywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from selfalign.errors import TimeUp, UserError
from selfalign.protocols import Progress
from selfalign.text import one_line, printable


class Quiet:
    """Progress that nobody watches."""

    def start(self, stage: str, total: int, done: int = 0) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


class Until:
    """Progress that ends a run after the batch or the training step at hand, once so many hours have passed since it was made.

    Raises:
        UserError: no hours at all.
        TimeUp: from `advance`, when what it hears of is in the record, or is about to be.
    """

    def __init__(self, hours: float, shown: Progress | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        if not hours > 0:
            raise UserError(f"--max_hours {hours:g}: give a number of hours above 0")
        self._hours, self._shown, self._clock, self._end = hours, shown or Quiet(), clock, clock() + 3600 * hours
        self.start, self.finish = self._shown.start, self._shown.finish

    def advance(self, count: int = 1, note: str = "") -> None:
        self._shown.advance(count, note)
        if self._clock() >= self._end:
            raise TimeUp(self._hours)

    def say(self, text: str) -> None:
        say(self._shown, text)


class Renamed:
    """Progress whose stages and lines are worded otherwise than those who do the work word them."""

    def __init__(self, shown: Progress, name: Callable[[str], str]) -> None:
        self._shown, self._name = shown, name
        self.advance, self.finish = shown.advance, shown.finish

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._shown.start(self._name(stage), total, done)

    def say(self, text: str) -> None:
        say(self._shown, self._name(text))


def limited(hours: float | None, progress: Progress | None) -> Progress | None:
    """The progress itself, or one with a limit where there is one."""
    return progress if hours is None else Until(hours, progress)


def say(progress: Progress, text: str) -> None:
    """A line between the stages, where the progress has a way to say one."""
    getattr(progress, "say", Quiet().say)(text)


def on_screen() -> AbstractContextManager[Any]:
    """The progress that fits standard error: a live bar on a terminal, and in a notebook that can draw one, else lines."""
    from rich.console import Console

    from selfalign.loop.bars import Bars

    console = Console(stderr=True)
    draws = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return Bars(console) if draws else Lines()


def per_second(rate: float) -> str:
    """Items a second, or seconds an item where that is the larger number."""
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each" if rate else "–/s"


def at(moment: float, now: float) -> str:
    """A time of day, with its date where that is another one; both in seconds since 1970, shown in the machine's time zone."""
    then = time.localtime(moment)
    same = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M" if same else "%d %b %H:%M", then)


class Lines:
    """A line for each stage that is done, and one a minute: the first when work begins, and also while nothing moves. Not
    before: what is wrong with options or files is told in a line of its own. On standard error, so that standard output stays
    for tables and JSON."""

    def __init__(
        self, write: Callable[[str], object] | None = None, clock: Callable[[], float] = time.time, every: float = 60.0
    ) -> None:
        self._write, self._clock, self._every = write, clock, every
        self._stage, self._note, self._spoken = "", "", False
        self._total = self._first = self._done = 0
        self._began, self._open = clock(), False
        self._last = self._began
        self._over, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Lines:
        def beat() -> None:
            while not self._over.wait(min(1.0, self._every)):
                self.tick()

        threading.Thread(target=beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._stage, self._total, self._first, self._done = one_line(printable(stage)), total, done, done
        self._began, self._open, self._note = self._clock(), True, ""
        self.tick()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done, self._note = self._done + count, one_line(printable(note))
        self.tick()

    def finish(self) -> None:
        self._open = False
        spent = self._clock() - self._began
        self.say(f"{self._stage}: {self._total - self._first} in {spent:.1f} s")
        self._began = self._clock()

    def say(self, text: str) -> None:
        with self._lock:
            self._put(printable(text))

    def tick(self) -> None:
        """Says where it stands, if nothing was said for as long as a line is due."""
        with self._lock:
            if self._clock() - self._last >= self._every or (self._open and not self._spoken):
                self._put(self._standing())

    def _put(self, text: str) -> None:
        self._last, self._spoken = self._clock(), True
        if self._write is None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        else:
            self._write(text)

    def _standing(self) -> str:
        now = self._clock()
        spent = now - self._began
        if not self._open:
            where = f"at work between stages after {self._stage}" if self._stage else "preparing: checks and loading"
            return f"{where}, for {spent / 60:.0f} min"
        rate = (self._done - self._first) / spent if spent > 0 else 0.0
        ends = f", {per_second(rate)}, ends {at(now + (self._total - self._done) / rate, now)}" if rate else ""
        return f"{self._stage}: {self._done} of {self._total}{ends}{f'; {self._note}' if self._note else ''}"

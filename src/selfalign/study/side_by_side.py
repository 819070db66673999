"""The runs of a study side by side, in processes on this machine or on the nodes of a cluster: their order, waiting, failing.

Each run stands in its own folder, as it does one after the other; the study then reads them back. A run that fails leaves the
others alone, as it does there. One whose node is lost begins anew elsewhere, and goes on from its folder.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from selfalign.errors import RunFailed, TimeUp, UserError
from selfalign.record.lock import locked
from selfalign.study.run import Unit
from selfalign.study.units import is_done

GRACE = 30.0
"""Seconds that a process is given to stop with its work in the record."""
LOSSES = 3
"""Nodes or workers that may be lost under one run: the third loss is not the nodes' fault."""
_EARLY, _PAUSE = 0.25, 5.0
"""What a loss before the run had begun counts, and seconds until it is tried again: for half a minute a cluster may send it to a
node that is gone."""
_EVERY = 0.1
"""Seconds between two looks at the processes."""
_SAID = "selfalign: "
"""How the line begins in which a command says why it ends."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """What became of a process."""

    code: int | None
    """Its exit code, the signal's number below zero for one that was killed; None where it was lost together with its node."""
    how: str = ""
    """Of one that was lost: what is known of it."""
    where: str = ""
    """Where it ran, as the end of a sentence; "" for this machine."""


class Process(Protocol):
    """A process that has a run of the study run, somewhere."""

    def poll(self) -> Ended | None:
        """None while it runs. Raises UserError where it cannot run there."""

    def stop(self) -> None:
        """Asks it to stop, with its work in the record."""

    def end(self, seconds: float) -> None:
        """Waits for it as long, and ends it if it is still there."""


class Places(Protocol):
    """Where processes run."""

    def prepare(self) -> None:
        """Before the first of them; the study's folder is there, and locked by this process. Raises UserError."""

    def start(self, place: int, words: Callable[[], Sequence[str]], heard: Callable[[str], None]) -> Process:
        """`selfalign WORDS`, at one of the places from 0 on, which is free; `heard` is told each line of standard error. The
        words are given when it begins: how long it may work follows from when that is."""


class SideBySide:
    """`study.run.Beside` by `selfalign study ARGUMENTS --only FOLDER`; a context manager that leaves no process behind."""

    def __init__(self, out: Path, arguments: Sequence[str], parallel: int, places: Places, hours: float | None = None) -> None:
        """With the study's folder, its arguments of the command line and `parallel` runs at a time. `hours`: how long it may
        work; a process is given what is left of it."""
        self._out, self._words, self._places = out, ["study", *arguments], places
        self._hours, self._began = math.inf if hours is None else hours, time.monotonic()
        self._idle = list(range(parallel))
        self._units: Mapping[str, Unit] = {}
        self._waiting: list[str] = []
        self._running: dict[str, tuple[Process, int, list[str]]] = {}
        self._done: set[str] = set()
        self._failed: dict[str, Exception] = {}
        self._losses: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._lock = ExitStack()

    def plan(self, units: Mapping[str, Unit]) -> None:
        """See `study.run.Beside`. Raises UserError: another process has the study run side by side, or there is no place for a
        run."""
        self._units, self._waiting = units, list(units)
        self._lock.enter_context(locked(self._out))
        self._places.prepare()

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *about: object) -> None:
        """Asks the processes that still run to stop, and ends those that do not."""
        for process, *_ in self._running.values():
            process.stop()
        end = time.monotonic() + GRACE
        for process, *_ in self._running.values():
            process.end(max(0.0, end - time.monotonic()))
        self._lock.close()

    def wait(self, folder: str) -> None:
        """See `study.run.Beside`. Raises UserError, RunFailed: the run cannot go on, with its own words; TimeUp: no hours are
        left."""
        while not {folder} & {*self._done, *self._failed}:
            while self._idle and (ready := self._ready()) is not None:
                self._start(ready)
            for name in [*self._running]:
                self._look(name)
            if not {folder} & {*self._done, *self._failed}:
                time.sleep(_EVERY)
        if folder in self._failed:
            raise self._failed[folder]

    def _ready(self) -> str | None:
        if not self._left():
            if not self._running:
                raise TimeUp(self._hours)
            return None
        over, now = {*self._done, *self._failed}, time.monotonic()
        for name in self._waiting:
            unit = self._units[name]
            able = unit.needs <= over and (not unit.steps_of or unit.steps_of in self._done)
            if able and self._not_before.get(name, now) <= now:
                return name
        return None

    def _left(self) -> float:
        return max(0.0, self._hours - (time.monotonic() - self._began) / 3600)

    def _start(self, name: str) -> None:
        self._waiting.remove(name)
        place, said = self._idle.pop(0), list[str]()
        one = ["--only", name, "--settled", json.dumps(dict(self._units[name].trainer))]

        def words() -> list[str]:
            left = self._left()
            return [*self._words, *([] if left == math.inf else [f"--max_hours={max(left, 1e-6)!r}"]), *one]

        def hear(line: str) -> None:
            """The line in which a process says why it ends is kept for the study's own."""
            if line.startswith(_SAID):
                said.append(line.removeprefix(_SAID).strip())
            else:
                sys.stderr.write(line)

        self._running[name] = self._places.start(place, words, hear), place, said

    def _look(self, name: str) -> None:
        """What fails is said at once, and raised by who waits for it."""
        try:
            if (ended := self._running[name][0].poll()) is not None:
                self._ended(name, ended)
        except (UserError, RunFailed) as error:
            if name in self._running:  # it cannot run where it was sent
                self._idle.append(self._running.pop(name)[1])
            self._failed[name] = error
            _log.warning("%s; the other runs go on", error)

    def _ended(self, name: str, ended: Ended) -> None:
        _, place, said = self._running.pop(name)
        self._idle.append(place)
        why = said.pop() if ended.code in (1, 2) and said else ""
        for line in said:
            sys.stderr.write(f"{_SAID}{line}\n")
        if ended.code is None:
            self._lost(name, ended)
            return
        if ended.code == 0 and is_done(self._out / name):
            self._done.add(name)
            return
        if ended.code == 0 and not self._left():
            raise TimeUp(self._hours)
        if why:
            raise (UserError if ended.code == 2 else RunFailed)(why + (f" ({ended.where.strip()})" if ended.where else ""))
        how = f"was killed by signal {-ended.code}" if ended.code < 0 else f"ended with code {ended.code}"
        want = ", as a system does that is short of memory" if ended.code == -signal.SIGKILL else ""
        raise RunFailed(f"{name}: its process{ended.where} {how}{want}")

    def _lost(self, name: str, ended: Ended) -> None:
        """Its run comes first of those that wait: it goes on from its folder, elsewhere. Raises RunFailed: that happens again and
        again."""
        self._losses[name] = self._losses.get(name, 0.0) + (1.0 if ended.where else _EARLY)
        if self._losses[name] >= LOSSES:
            raise RunFailed(f"{name}: {LOSSES} nodes or workers were lost under it, the last one so: {ended.how}")
        if ended.where:
            _log.warning("%s: its worker%s is lost; it goes on from its folder on another one (%s)", name, ended.where, ended.how)
        else:
            _log.warning("%s: it did not begin, and is tried again (%s)", name, ended.how)
            self._not_before[name] = time.monotonic() + _PAUSE
        self._waiting.insert(0, name)

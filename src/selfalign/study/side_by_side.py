"""The runs of a study side by side on one machine: a process for each, with a share of the processors and GPUs.

Each run stands in its own folder, as it does one after the other; the study then reads them back. A process that fails ends the
study as a run that fails does, and one whose parent is gone ends itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from selfalign.errors import RunFailed, TimeUp, UserError
from selfalign.study.run import is_done

GRACE = 30.0
"""Seconds that a process is given to stop with its work in the record."""
_EVERY = 0.1
"""Seconds between two looks at the processes."""
_SAID = "selfalign: "
"""How the line begins in which a command says why it ends."""


class SideBySide:
    """`study.run.Beside` by `selfalign study ARGUMENTS --only FOLDER`; a context manager that leaves no process behind."""

    def __init__(self, out: Path, arguments: Sequence[str], parallel: int, hours: float | None = None) -> None:
        """
        Args:
            out: the study's folder.
            arguments: its own, of the command line.
            hours: how long it may work; a process is given what is left of it.

        Raises:
            UserError: fewer GPUs than processes.
        """
        self._out, self._command = out, [sys.executable, "-m", "selfalign", "study", *arguments]
        self._hours, self._began = hours, time.monotonic()
        self._shares = shares(parallel)
        self._idle = list(range(parallel))
        self._needs: Mapping[str, set[str]] = {}
        self._waiting: list[str] = []
        self._running: dict[str, tuple[subprocess.Popen[str], int, threading.Thread, list[str]]] = {}
        self._done: set[str] = set()

    def plan(self, needs: Mapping[str, set[str]]) -> None:
        """See `study.run.Beside`."""
        self._needs, self._waiting = needs, list(needs)

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *about: object) -> None:
        """Asks the processes that still run to stop, and ends those that do not."""
        for child, *_ in self._running.values():
            child.terminate()
        end = time.monotonic() + GRACE
        for child, _, listening, _ in self._running.values():
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            listening.join()

    def wait(self, folder: str) -> None:
        """See `study.run.Beside`.

        Raises:
            UserError, RunFailed: a run cannot go on, with its own words.
            TimeUp: the hours are over.
        """
        while folder not in self._done:
            while self._idle and (ready := self._ready()) is not None:
                self._start(ready)
            for name in [name for name, (child, *_) in self._running.items() if child.poll() is not None]:
                self._ended(name)
            if folder not in self._done:
                time.sleep(_EVERY)

    def _ready(self) -> str | None:
        if self._left() == 0.0:
            if not self._running and self._hours is not None:
                raise TimeUp(self._hours)
            return None
        return next((name for name in self._waiting if self._needs[name] <= self._done), None)

    def _left(self) -> float | None:
        """Hours left; None where there is no limit."""
        return None if self._hours is None else max(0.0, self._hours - (time.monotonic() - self._began) / 3600)

    def _start(self, name: str) -> None:
        self._waiting.remove(name)
        place, left = self._idle.pop(0), self._left()
        cores, surroundings = self._shares[place]
        limit = [] if left is None else [f"--max_hours={max(left, 1e-6)!r}"]
        child = subprocess.Popen(
            [*self._command, *limit, "--only", name],
            stdin=subprocess.PIPE,  # which it watches: it ends itself when we are gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches us alone, and we ask it to stop
            env={**os.environ, **surroundings},
        )
        if cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(child.pid, cores)
        said = list[str]()
        listening = threading.Thread(target=_pass_on, args=(child.stderr, said), daemon=True)
        listening.start()
        self._running[name] = (child, place, listening, said)

    def _ended(self, name: str) -> None:
        child, place, listening, said = self._running.pop(name)
        listening.join()
        self._idle.append(place)
        why = said.pop() if child.returncode in (1, 2) and said else ""
        for line in said:
            sys.stderr.write(f"{_SAID}{line}\n")
        if child.returncode == 0 and is_done(self._out / name):
            self._done.add(name)
            return
        if child.returncode == 0 and self._left() == 0.0 and self._hours is not None:
            raise TimeUp(self._hours)
        if why:
            raise (UserError if child.returncode == 2 else RunFailed)(why)
        how = f"was killed by signal {-child.returncode}" if child.returncode < 0 else f"ended with code {child.returncode}"
        raise RunFailed(f"{name}: its process {how}; the same command goes on from here")


def shares(parallel: int) -> list[tuple[set[int], dict[str, str]]]:
    """For each process its processors (none where the system has no such choice) and what its environment says of them.

    Raises:
        UserError: there are GPUs, but fewer than processes.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = max(1, (len(cores) or os.cpu_count() or 1) // parallel)
    gpus = _gpus()
    if gpus and len(gpus) < parallel:
        raise UserError(f"--parallel {parallel}: this machine shows {len(gpus)} GPUs, and each run needs one; give at most that")
    found = []
    for place in range(parallel):
        own = {cores[(place * each + at) % len(cores)] for at in range(each)} if cores else set[int]()
        said = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(each))}
        if gpus:
            some = len(gpus) // parallel
            said["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[place * some : (place + 1) * some])
        found.append((own, said))
    return found


def _gpus() -> list[str]:
    """The GPUs that CUDA lets us see, without asking CUDA."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in map(str.strip, given.split(",")) if name and name != "-1"]
    try:
        return [str(place) for place, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    except OSError:
        return []


def _pass_on(lines: IO[str], said: list[str]) -> None:
    """What a process writes on its way; the line in which it says why it ends is kept for the study's own."""
    with lines:
        for line in lines:
            if line.startswith(_SAID):
                said.append(line.removeprefix(_SAID).strip())
            else:
                sys.stderr.write(line)


def end_with_parent() -> None:
    """From now on this process stops, with its work in the record, when the one that started it is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()

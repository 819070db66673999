"""Places for the runs of a study on this machine: processes, each with a share of the processors and GPUs.

A process whose parent is gone ends itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from selfalign.errors import UserError
from selfalign.models.device import visible
from selfalign.study.side_by_side import GRACE, Ended


class Here:
    """`study.side_by_side.Places` on this machine."""

    def __init__(self, parallel: int, uses: int) -> None:
        """
        Args:
            uses: how many GPUs a run can use; 0: what GPUs there are is no matter.

        Raises:
            UserError: fewer GPUs than processes.
        """
        self._shares = shares(parallel, seen_gpus() if uses else [])

    def prepare(self) -> None:
        """Nothing: what this process sees, the others see."""

    def start(self, place: int, words: Callable[[], Sequence[str]], heard: Callable[[str], None]) -> Child:
        cores, surroundings = self._shares[place]
        child = Child(words(), heard, {**os.environ, **surroundings})
        if cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(child.pid, cores)
        return child


class Child:
    """`selfalign WORDS` as a child process in a session of its own."""

    def __init__(
        self, words: Sequence[str], heard: Callable[[str], None], environment: Mapping[str, str], folder: Path | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selfalign", *words],
            stdin=subprocess.PIPE,  # which it watches: it ends itself when we are gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches us alone, and we ask it to stop
            env=dict(environment),
            cwd=folder,
        )
        self.pid = self._process.pid
        self._listening = threading.Thread(target=_pass_on, args=(self._process.stderr, heard), daemon=True)
        self._listening.start()

    def poll(self) -> Ended | None:
        if (code := self._process.poll()) is None:
            return None
        self._listening.join()
        return Ended(code)

    def stop(self) -> None:
        self._process.terminate()

    def end(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listening.join()


def shares(parallel: int, gpus: Sequence[str]) -> list[tuple[set[int], dict[str, str]]]:
    """For each process its processors (none where the system has no such choice) and what its environment says of them. Raises
    UserError: there are GPUs, but fewer than processes."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = max(1, (len(cores) or os.cpu_count() or 1) // parallel)
    if gpus and len(gpus) < parallel:
        raise UserError(f"--parallel {parallel}: this machine shows {len(gpus)} GPUs, and each run needs one; give at most that")
    found = []
    for place in range(parallel):
        own = {cores[(place * each + at) % len(cores)] for at in range(each)} if cores else set[int]()
        said = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(each))}
        if gpus:
            some = len(gpus) // parallel
            said[visible(os.environ)] = ",".join(gpus[place * some : (place + 1) * some])
        found.append((own, said))
    return found


def seen_gpus() -> list[str]:
    """The GPUs that CUDA lets us see, without asking CUDA."""
    given = os.environ.get(visible(os.environ))
    if given is not None:
        return [name for name in map(str.strip, given.split(",")) if name and name != "-1"]
    try:
        return [str(place) for place, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    except OSError:
        return []


def _pass_on(lines: IO[str], heard: Callable[[str], None]) -> None:
    with lines:
        for line in lines:
            heard(line)


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

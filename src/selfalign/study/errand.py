"""What a study's run needs on a node of a cluster: a look at whether it can work there, and an actor that has it run."""

from __future__ import annotations

import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfalign.errors import UserError
from selfalign.models import cluster
from selfalign.models.files import model_hash
from selfalign.record.lock import NAME, is_locked
from selfalign.study.processes import Child

_NEWS, _EVERY = 10.0, 0.1
"""Seconds after which an errand answers though there is nothing new, and between two looks at its process."""
WHO = "study --address"
_SHARE = "a file system that all nodes share, under the same path"


@dataclass(frozen=True)
class Sight:
    """What a node must see as the machine with the command sees it."""

    folder: Path
    """The one in which the command was given: files may be named from there."""
    out: Path
    """The study's folder, whose lock the command holds."""
    mark: bytes
    """What stands in the lock's file."""
    models: Mapping[Path, str]
    """The local models' folders, with the hashes of their files."""
    versions: Mapping[str, str]
    """As `cluster.versions`."""


def look(sight: Sight) -> None:
    """
    Raises:
        UserError: this node has another selfalign, sees something else, or would not see that another one works on a folder.
    """
    here = f"{WHO}: node {platform.node()}"
    cluster.compare(here, "a run", "the machine with the command", sight.versions)
    if not sight.folder.is_dir():
        raise UserError(
            f"{here}: the folder {sight.folder}, in which the command was given, is not there; give it in one on {_SHARE}"
        )
    if not _is(sight.out / NAME, sight.mark):
        raise UserError(f"{here}: the study's folder {sight.out} is not the same there; give --out a folder on {_SHARE}")
    if not is_locked(sight.out):
        remedy = "have it mounted with locks that reach all nodes (NFS: without nolock and local_lock; Lustre: flock)"
        raise UserError(f"{here}: locks on {sight.out} do not reach it, so two nodes could write to one run; {remedy}")
    for model, known in sight.models.items():
        found = model_hash(model) if model.is_dir() else ""
        if found != known:
            what = f"holds another model there ({found[:12]}…) than here ({known[:12]}…)" if found else "is not there"
            raise UserError(f"{here}: the model {model} {what}; put it on {_SHARE}, or copy it to each node")


def _is(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


class Errand:
    """Lives in a worker of a cluster and has one run of a study run, in a process of its own which ends with the worker's."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._child: Child | None = None
        self._over, self._lock = False, threading.Lock()

    def arrive(self, sight: Sight) -> tuple[str, dict[str, str]]:
        """The node's name, and its `cluster.versions`.

        Raises:
            UserError: see `look`.
        """
        look(sight)
        return platform.node(), cluster.versions()

    def begin(self, sight: Sight, words: Sequence[str]) -> tuple[list[str], int | None]:
        """Starts the process, unless it was told to stop before; as `listen`."""
        with self._lock:
            if self._over:
                return [], 128 + signal.SIGTERM
            self._child = Child(words, self._lines.put, os.environ, sight.folder)
        return self.listen()

    def listen(self) -> tuple[list[str], int | None]:
        """What the process has written since, and its exit code once it has ended; waits a while for one of both."""
        assert self._child is not None
        lines, end = list[str](), time.monotonic() + _NEWS
        while True:
            ended = self._child.poll()  # first: behind its end no line comes
            while not self._lines.empty():
                lines.append(self._lines.get())
            if lines or ended is not None or time.monotonic() > end:
                return lines, None if ended is None else ended.code
            time.sleep(_EVERY)

    def stop(self, seconds: float) -> None:
        """Asks the process to stop, and ends it if it does not within as long."""
        with self._lock:
            self._over = True
        if self._child is not None:
            self._child.stop()
            self._child.end(seconds)

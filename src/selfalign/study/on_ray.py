"""The runs of a study on the nodes of a Ray cluster: a plain actor for each, which first looks whether it can work there."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models import cluster
from selfalign.models.files import model_hash
from selfalign.record.lock import NAME, is_locked
from selfalign.study.processes import Child
from selfalign.study.side_by_side import GRACE, Ended

WHO = "study --address"
_NEWS, _EVERY = 10.0, 0.1
"""Seconds after which an errand answers though there is nothing new, and between two looks at its process."""
_PATIENCE = 60.0
"""Seconds in which a node answers; without any, that is said, or the node is left alone."""
_SHARE = "a file system that all nodes share, under the same path"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """Which cluster, and what of it one run takes; by the names of `engines.Ray`."""

    address: str
    num_cpus: float = 1.0
    num_gpus: float | None = None
    """None: as many as `uses`, where the cluster has any."""
    resources: Mapping[str, float] = field(default_factory=dict)
    uses: int = 0
    """How many GPUs the arms can use."""


class OnRay:
    """`study.side_by_side.Places` on a cluster."""

    def __init__(self, out: Path, parallel: int, asked: Asked, models: Sequence[str]) -> None:
        """With the study's folder, and the models of its arms as they were given. Raises UserError: no Ray, no cluster at the
        address, or no node with room for a run; fewer places than asked for are said."""
        amounts = [asked.num_cpus, *([] if asked.num_gpus is None else [asked.num_gpus + 1]), *asked.resources.values()]
        if not all(amount > 0 for amount in amounts) or (asked.num_gpus or 0) < 0:
            raise UserError(f"{WHO}: num_cpus, num_gpus or resources are out of range: give numbers above 0 (of GPUs, 0 or more)")
        if "://" in asked.address:
            raise UserError(f"--address {asked.address}: give auto or HOST:PORT, on a machine of the cluster")
        cluster.require(WHO)
        cluster.connect(asked.address, "--address")
        gpus = asked.num_gpus
        if gpus is None:
            gpus = float(asked.uses) if asked.uses and cluster.has_gpus() else 0.0
        self._wanted = {"num_cpus": asked.num_cpus, "num_gpus": gpus, "resources": dict(asked.resources)}
        self._nodes = cluster.check_room(WHO, "run", parallel, self._wanted)
        self._out = out.resolve()
        self._models = [path.resolve() for path in (Path(each).expanduser() for each in dict.fromkeys(models)) if path.is_dir()]
        self._sight: Sight | None = None
        self._known: set[str] = set()

    def prepare(self) -> None:
        """Raises UserError: a node on which a run would fit has another selfalign or Python, does not see the study's folder, its
        lock, or a local model."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        mark, models = (self._out / NAME).read_bytes(), {path: model_hash(path) for path in self._models}
        self._sight = Sight(Path.cwd(), self._out, mark, models, cluster.versions())
        # Versions first, by what runs in any version.
        for ask, told in ((ray.remote(_versions_there()), []), (ray.remote(look), [self._sight])):
            sent = [
                ask.options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                .remote(*told)
                .future()
                for node in self._nodes
            ]
            for answer in sent:
                try:
                    found = answer.result(_PATIENCE)
                except (TimeoutError, ray.exceptions.RayError) as error:
                    if (cause := cluster.own(error)) is not None:
                        raise cause from error
                    _log.warning("%s: a node does not answer (%s)", WHO, cluster.first_line(error))
                    continue
                if not told:
                    self._greet(*found)

    def start(self, place: int, words: Callable[[], Sequence[str]], heard: Callable[[str], None]) -> Away:
        assert self._sight is not None
        return Away(self._wanted, self._sight, words, heard, self._greet)

    def _greet(self, node: str, versions: Mapping[str, str]) -> None:
        if node not in self._known:
            cluster.compare(WHO, "a run there", node, versions)
        self._known.add(node)


class Away:
    """A run's process on some node, by an actor of its own: one that is lost is not started again by Ray, but by us."""

    def __init__(
        self,
        wanted: Mapping[str, Any],
        sight: Sight,
        words: Callable[[], Sequence[str]],
        heard: Callable[[str], None],
        greet: Callable[[str, Mapping[str, str]], None],
    ) -> None:
        import ray

        # Threads, as it listens and is told to stop at the same time.
        self._actor: Any = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=3, **wanted)(Errand).remote()
        self._heard, self._greet, self._where, self._since = heard, greet, "", time.monotonic()
        # Ray's own waiting swallows what a signal handler raises, so its threads put what comes here, and we look here.
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sight, self._words = sight, words
        self._send(self._actor.arrive.remote(sight))

    def poll(self) -> Ended | None:
        try:
            done = self._news.get_nowait()
        except queue.Empty:
            if not self._where and time.monotonic() - self._since > _PATIENCE:
                _log.warning("%s: a run waits for room on a node (free: %s)", WHO, cluster.free())
                self._since = float("inf")
            return None
        if (error := done.exception()) is not None:
            self._kill()
            if (cause := cluster.own(error)) is not None:
                raise cause from error
            return Ended(None, cluster.first_line(error), self._where)
        if not self._where:
            self._where = f" on node {done.result()[0]}"
            self._greet(*done.result())
            self._send(self._actor.begin.remote(self._sight, self._words()))
            return None
        lines, code = done.result()
        for line in lines:
            self._heard(line)
        if code is None:
            self._send(self._actor.listen.remote())
            return None
        self._kill()
        return Ended(code, where=self._where)

    def stop(self) -> None:
        if self._where:
            self._stopped = self._actor.stop.remote(GRACE).future()

    def end(self, seconds: float) -> None:
        """Where it has not begun, its process ends by itself, with its worker's."""
        if self._where:
            with contextlib.suppress(Exception):  # its node may be gone
                self._stopped.result(seconds + 1.0)
        self._kill()

    def _send(self, call: Any) -> None:
        call.future().add_done_callback(self._news.put)

    def _kill(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor)


def _versions_there() -> Callable[[], tuple[str, dict[str, str]]]:
    """A function that is sent by its code and not by its name: a node with another selfalign may not have the name."""
    names = cluster.DECIDING

    def ask() -> tuple[str, dict[str, str]]:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        found = {"Python": platform.python_version()}
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return platform.node(), found

    return ask


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
    """Raises UserError: this node has another selfalign, sees something else, or would not see that another one works on a
    folder."""
    here = f"{WHO}: node {platform.node()}"
    cluster.compare(here, "a run", "the machine with the command", sight.versions)
    if not sight.folder.is_dir():
        there = f"the folder {sight.folder}, in which the command was given, is not there"
        raise UserError(f"{here}: {there}; give it in one on {_SHARE}")
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
        """The node's name, and its `cluster.versions`. Raises UserError: see `look`."""
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

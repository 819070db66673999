"""Places for the runs of a study on the nodes of a Ray cluster: a plain actor for each run, with resources of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.models import cluster
from selfalign.models.files import model_hash
from selfalign.record.lock import NAME
from selfalign.study.errand import WHO, Errand, Sight, look
from selfalign.study.side_by_side import GRACE, Ended

_PATIENCE = 60.0
"""Seconds in which a node answers; without any, that is said, or the node is left alone."""

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
        """
        Args:
            out: the study's folder.
            models: of its arms, as they were given.

        Raises:
            UserError: no Ray, no cluster at the address, or no node with room for a run; fewer places than asked for are said.
        """
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
        """
        Raises:
            UserError: a node on which a run would fit has another selfalign or Python, does not see the study's folder, its
                lock, or a local model.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        mark, models = (self._out / NAME).read_bytes(), {path: model_hash(path) for path in self._models}
        self._sight = Sight(Path.cwd(), self._out, mark, models, cluster.versions())
        # Versions first, by what runs in any version.
        for first, ask in ((True, ray.remote(_versions_there())), (False, ray.remote(look))):
            sent = []
            for node in self._nodes:
                options = {
                    "num_cpus": 0,
                    "max_retries": 0,
                    "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
                }
                sent.append(ask.options(**options).remote(*([] if first else [self._sight])).future())
            for answer in sent:
                try:
                    found = answer.result(_PATIENCE)
                except (TimeoutError, ray.exceptions.RayError) as error:
                    if (cause := cluster.own(error)) is not None:
                        raise cause from error
                    _log.warning("%s: a node does not answer (%s)", WHO, cluster.first_line(error))
                    continue
                if first:
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

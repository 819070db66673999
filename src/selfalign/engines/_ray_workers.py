"""The workers of the engine `Ray`: actors with inner sessions, and the dispatch of batches to those that are free."""

from __future__ import annotations

import contextlib
import logging
import platform
import queue
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.errors import ProcessDied, RunFailed, UserError
from selfalign.models import cluster
from selfalign.models.cluster import first_line, last_line, own
from selfalign.protocols import Engine, Session
from selfalign.types import Format, ModelRef

if TYPE_CHECKING:
    from selfalign.engines.ray import Ray

_log = logging.getLogger(__name__)

DEATHS = 3
"""Workers that may die under one batch: the third death is not the nodes' fault."""
_PATIENCE = 60.0
"""Seconds without any worker until that is said."""
_GOODBYE = 20.0
"""Seconds that a worker is given to close a model."""


@dataclass(frozen=True)
class Task:
    """What a session's calls are about."""

    model: ModelRef
    format: Format
    files: str
    """The hash of the model's files, as the inner engine finds it here. That of the model's ref may be made in another way."""
    folder: Path | None
    """The run folder, where the run will have models of its own."""


def needs(spec: Ray) -> dict[str, Any]:
    """The resources of one worker, in the words of Ray's actors.

    Raises:
        UserError: no cluster, or none of its nodes is large enough for one worker; a smaller number of workers is only said.
    """
    cluster.connect(spec.address, "--engine.address")
    uses = getattr(spec.inner, "device", "cpu") != "cpu"
    gpus = spec.num_gpus
    if gpus is None:
        gpus = float(getattr(spec.inner, "tensor_parallel", 1)) if uses and cluster.has_gpus() else 0.0
    wanted = {"num_cpus": spec.num_cpus, "num_gpus": gpus, "resources": dict(spec.resources)}
    cluster.check_room("engine Ray", "worker", spec.workers, wanted)
    return wanted


class Worker:
    """Lives in a process of its own, on some node: one inner session for each model that is asked for."""

    def __init__(self, inner: Engine) -> None:
        self._inner = inner
        self._open: dict[tuple[ModelRef, Format], tuple[Session, ExitStack]] = {}

    def ready(self) -> tuple[str, dict[str, str]]:
        """The node's name, and what of it decides on the texts."""
        return platform.node(), cluster.versions()

    def call(self, task: Task, method: str, arguments: tuple[Any, ...]) -> tuple[Any, list[str]]:
        """What the session's method gives, and what was warned of meanwhile."""
        with _warnings() as said:
            return getattr(self._session(task), method)(*arguments), said

    def leave(self, model: ModelRef, format: Format) -> None:
        """Gives the memory of a model back."""
        if (found := self._open.pop((model, format), None)) is not None:
            found[1].close()

    def _session(self, task: Task) -> Session:
        """Raises UserError: the run folder or the model is not there, or the files under the model's path are others."""
        key = (task.model, task.format)
        if key not in self._open:
            here = f"engine Ray, worker on {platform.node()}"
            share = "a file system that all nodes share, under the same path"
            if task.folder is not None and not task.folder.is_dir():
                raise UserError(f"{here}: the run folder {task.folder} is not there; give --out a folder on {share}")
            try:
                found = self._inner.check(replace(task.model, hash=""), (), task.format)
            except UserError as error:
                raise UserError(f"{here}: {error}; each node needs the model: on {share}, or as a copy there") from error
            if found.hash != task.files:
                name = task.model.adapter or task.model.base
                what = f"{name} holds another model there ({found.hash[:12]}…) than here ({task.files[:12]}…)"
                raise UserError(f"{here}: {what}; put the model on {share}, or copy it anew")
            stack = ExitStack()
            self._open[key] = stack.enter_context(self._inner.open(task.model, task.format)), stack
        return self._open[key][0]


class Crew:
    """The workers of a session and of the sessions beside it.

    A worker is free, has a call, or is away: not started yet, or lost. Who is away gets no call until it has answered.
    """

    def __init__(self, spec: Ray) -> None:
        self._spec = spec
        self._workers: list[Any] = []
        self._free: deque[int] = deque()
        self._away: set[int] = set()
        # Ray's own waiting swallows what a signal handler raises, so its threads put what comes here, and we wait here.
        self._news: queue.SimpleQueue[tuple[int, object, int, Any]] = queue.SimpleQueue()

    def run(self, task: Task, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """See `record.journal.Spread`."""
        self._start()
        run, waiting, deaths = object(), deque(range(len(calls))), Counter[int]()
        under_way = 0
        while waiting or under_way:
            while waiting and self._free:
                number, place = waiting.popleft(), self._free.popleft()
                self._await(place, run, number, self._workers[place].call.remote(task, method, calls[number]))
                under_way += 1
            place, whose, number, done = self._hear()
            if place in self._away:
                self._welcome(place, done)
                continue
            error, mine = done.exception(), whose is run  # else of a run that was broken off
            under_way -= mine
            if error is None or own(error) is not None:
                self._free.append(place)
            else:
                self._call_up(place)
            if not mine:
                continue
            if error is None:
                found, said = done.result()
                for text in said:
                    _log.warning("worker %d: %s", place + 1, text)
                yield number, found
                continue
            cause = own(error)
            if cause is not None and not isinstance(cause, ProcessDied):  # which is no fault of the batch, nor of the model
                raise cause from error
            deaths[number] += 1
            how = first_line(cause or error)
            if deaths[number] == DEATHS:
                raise RunFailed(f"engine Ray: {DEATHS} workers died under one batch, the last one so: {how}")
            _log.warning("engine Ray: worker %d is lost; another one does its batch (%s)", place + 1, how)
            waiting.appendleft(number)

    def leave(self, model: ModelRef, format: Format) -> None:
        """Has the free workers close a model; those that have a call or are away end with the crew."""
        if self._free:
            import ray

            with contextlib.suppress(ray.exceptions.RayError):
                ray.get([self._workers[place].leave.remote(model, format) for place in self._free], timeout=_GOODBYE)

    def close(self) -> None:
        """Ends the workers."""
        if self._workers:
            import ray

            for worker in self._workers:
                with contextlib.suppress(ray.exceptions.RayError, ValueError):
                    ray.kill(worker)
        self._workers, self._away = [], set()
        self._free.clear()

    def _start(self) -> None:
        if self._workers:
            return
        import ray

        # No retries by Ray: a batch would wait for its own worker to come back, which may be never, while others are idle.
        actor = ray.remote(max_restarts=-1, max_task_retries=0, **needs(self._spec))(Worker)
        self._workers = [actor.remote(self._spec.inner) for _ in range(self._spec.workers)]
        for place in range(len(self._workers)):
            self._call_up(place)

    def _call_up(self, place: int) -> None:
        """The worker gets calls again once it has answered, from wherever Ray starts it."""
        self._away.add(place)
        self._await(place, None, 0, self._workers[place].ready.options(max_task_retries=-1).remote())

    def _await(self, place: int, run: object, number: int, ref: Any) -> None:
        ref.future().add_done_callback(lambda done: self._news.put((place, run, number, done)))

    def _hear(self) -> tuple[int, object, int, Any]:
        """The next call that ended."""
        while True:
            alone = len(self._away) == len(self._workers)
            try:
                return self._news.get(timeout=_PATIENCE if alone else None)
            except queue.Empty:
                _log.warning("engine Ray: no worker has started yet; a node is missing or taken (free: %s)", cluster.free())

    def _welcome(self, place: int, done: Any) -> None:
        """A worker that was away has answered. Raises RunFailed: it cannot start, or is of another version."""
        if (error := done.exception()) is not None:
            raise RunFailed(f"engine Ray: worker {place + 1} cannot start: {last_line(error)}") from error
        try:
            cluster.compare("engine Ray", "this worker", *done.result())
        except UserError as error:
            raise RunFailed(str(error)) from error
        self._away.discard(place)
        self._free.append(place)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What selfalign warns of in the block."""
    kept, logger = _Kept(), logging.getLogger("selfalign")
    logger.addHandler(kept)
    try:
        yield kept.texts
    finally:
        logger.removeHandler(kept)

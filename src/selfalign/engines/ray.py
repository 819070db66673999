"""Runs models on several GPUs or machines: workers of a Ray cluster, each with a session of another engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfalign.engines import _ray_workers
from selfalign.engines.hf import HF
from selfalign.engines.openvino import OpenVINO
from selfalign.engines.scripted import Scripted
from selfalign.engines.vllm import VLLM
from selfalign.models import cluster
from selfalign.protocols import EngineLimits, Flags, Session, Trained, declared
from selfalign.types import Completion, Continuation, Example, FloatArray, Format, Likelihood, ModelRef, Request, Sampling


@dataclass(frozen=True)
class Ray:
    """Hands the batches that the inner engine plans to workers, each with an inner session of its own, as workers become free.

    A row's text follows from its own random seed and its batch, so which worker writes it, and when, changes nothing where the
    workers' hardware, threads and versions of libraries agree. A worker that is lost, or whose vLLM is, costs the batch it had:
    another one does that batch anew, and the lost one is started again where there is room.

    The inner engine says what is written and stands in a run's identity; the other options do not, and may change on the way.
    """

    inner: HF | VLLM | OpenVINO | Scripted = HF()  # noqa: RUF009  # a frozen value
    """The engine that each worker runs; from Python any other one that can be pickled."""
    workers: int = field(default=2, compare=False)
    """How many sessions, on as many GPUs or shares of processors; those for which there is no room yet join later."""
    address: str | None = field(default=None, compare=False)
    """A running cluster: auto for the one that this machine belongs to, or the head's HOST:PORT. Null starts Ray on this machine
    alone, for as long as the command runs."""
    num_cpus: float = field(default=1.0, compare=False)
    """Processor cores of one worker, which are its threads too (OMP_NUM_THREADS, unless that is set on the node)."""
    num_gpus: float | None = field(default=None, compare=False)
    """GPUs of one worker; null gives an inner engine that can use one (it has a `device`, and not cpu) one, or as many as its
    `tensor_parallel` says, where the cluster has any."""
    resources: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Resources of your own that one worker takes, by the names that nodes were started with (`ray start --resources`)."""

    def __post_init__(self) -> None:
        amounts = [self.num_cpus, *([] if self.num_gpus is None else [self.num_gpus + 1]), *self.resources.values()]
        if self.workers < 1 or not all(amount > 0 for amount in amounts) or (self.num_gpus or 0) < 0:
            raise ValueError(f"Ray: workers, num_cpus, num_gpus or resources are out of range in {self}")
        if self.address is not None and "://" in self.address:
            raise ValueError(f"Ray: address = {self.address!r}: give auto or HOST:PORT, on a machine of the cluster")
        if isinstance(self.inner, Ray) or type(self.inner).__name__ == "OpenAI":
            what = "itself" if isinstance(self.inner, Ray) else "OpenAI, whose server may be asked by itself (--engine OpenAI)"
            raise ValueError(f"Ray: inner is {what}; give an engine that runs a model")
        if ":" in (device := str(getattr(self.inner, "device", ""))):
            raise ValueError(f"Ray: inner.device = {device} is one GPU, and each worker is given others; leave it out")
        if isinstance(self.inner, VLLM) and self.num_gpus:
            taken = self.inner.tensor_parallel if self.inner.tensor_parallel > 1 else self.inner.memory
            if self.num_gpus < taken:
                what = "tensor_parallel" if taken > 1 else "memory"
                raise ValueError(f"Ray: num_gpus = {self.num_gpus:g} of a worker is less than its inner.{what} = {taken:g}")

    @property
    def pretends(self) -> bool:
        """As `Flags.pretends`."""
        return bool(declared(self.inner, Flags).pretends)

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """As the inner engine's, on this machine; and whether the cluster, where one is named, has room for a worker.

        Raises:
            UserError: what the inner engine raises; Ray is not installed, no cluster answers, or no node of it fits a worker.
        """
        cluster.require("engine Ray")
        found = self.inner.check(model, seeds, format)
        if self.address is not None:
            _ray_workers.needs(self)
        return found

    def check_models(self, trained: Trained | None, others: Sequence[str]) -> None:
        """See `protocols.EngineLimits`."""
        declared(self.inner, EngineLimits).check_models(trained, others)

    def check_sampling(self, sampling: Sampling) -> None:
        """See `protocols.EngineLimits`."""
        declared(self.inner, EngineLimits).check_sampling(sampling)

    def token_lengths(self, model: ModelRef, texts: Sequence[str]) -> list[int]:
        """As `EngineLimits.token_lengths`."""
        return declared(self.inner, EngineLimits).token_lengths(model, texts)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[RaySession]:
        """A session whose workers start at the first call that needs them, and end with the block."""
        crew = _ray_workers.Crew(self)
        try:
            with _beside(self, crew, model, format) as session:
                yield session
        finally:
            crew.close()


class RaySession:
    """`protocols.Session` on one model, with `record.journal.Spread`."""

    def __init__(self, engine: Ray, crew: _ray_workers.Crew, model: ModelRef, format: Format, texts: Session) -> None:
        """`texts`: an inner session here, for what needs no weights."""
        self._engine, self._crew, self._model, self._format = engine, crew, model, format
        self.fit, self.plan, self.render = texts.fit, texts.plan, texts.render
        self._folder: Path | None = None
        self._files = ""

    def runs_in(self, folder: Path) -> None:
        """From now on a worker answers only where it sees this run folder, in which the next rounds' models will be."""
        self._folder = folder.resolve()

    @contextmanager
    def beside(self, model: ModelRef, format: Format) -> Iterator[RaySession]:
        """A session on another model, on the same workers: others would find their GPUs taken."""
        with _beside(self._engine, self._crew, model, format) as session:
            yield session

    def spread(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, list[Any]]]:
        """See `record.journal.Spread`.

        Raises:
            UserError, RunFailed: what a worker's session raises; a model that is not the same on a node; a batch under which
                several workers died.
        """
        return self._crew.run(self._task(), method, calls)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        found: list[Completion] = self._alone("generate", requests, sampling)
        return found

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        found: list[Likelihood] = self._alone("likelihood", examples, shown)
        return found

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        found: list[Continuation] = self._alone("continuation", pairs)
        return found

    def embed(self, texts: Sequence[str]) -> FloatArray:
        found: FloatArray = self._alone("embed", texts)
        return found

    def _task(self) -> _ray_workers.Task:
        self._files = self._files or self._engine.inner.check(replace(self._model, hash=""), (), self._format).hash
        return _ray_workers.Task(self._model, self._format, self._files, self._folder)

    def _alone(self, method: str, *arguments: Any) -> Any:
        """One call, by one worker."""
        ((_, found),) = self._crew.run(self._task(), method, [arguments])
        return found


@contextmanager
def _beside(engine: Ray, crew: _ray_workers.Crew, model: ModelRef, format: Format) -> Iterator[RaySession]:
    with engine.inner.open(model, format) as texts:
        session = RaySession(engine, crew, model, format, texts)
        try:
            yield session
        finally:
            crew.leave(model, format)

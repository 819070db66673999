"""Generates with OpenVINO GenAI on this machine's processor; everything else it leaves to transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from selfalign.engines import _openvino_model, _weights
from selfalign.engines._decode import Stopper
from selfalign.engines._requests import undecodable
from selfalign.engines._texts import Texts, kind_of
from selfalign.engines.hf import HF, HFSession
from selfalign.errors import RunFailed, UserError
from selfalign.models.names import resolve_ref
from selfalign.models.rendering import same_until
from selfalign.types import Completion, Example, Format, ModelRef, Request, Sampling

Dtype = Literal["auto", "float32", "bfloat16"]

_BLOCK = 32
"""Tokens in a block of the prefix cache; prompts share whole blocks."""


@dataclass(frozen=True)
class OpenVINO:
    """Generates with OpenVINO's continuous batching: rows of all lengths without padding, ended ones replaced at once.

    A new checkpoint is converted once, into the cache, in float32: 4 bytes a parameter. Log-probabilities of given texts and
    embeddings come from an `HF` session on the same model, loaded next to this one at the first call that needs it.

    Each row has a random seed of its own, of which OpenVINO uses 32 bits; texts differ from those that `HF` samples with the
    same seeds, their distribution does not.
    """

    batch_size: int = 64
    """Rows in one batch of the journal, all under way at once."""
    batch_tokens: int = 1024
    """Tokens computed in one step at most, of prompts and of texts under way together."""
    dtype: Dtype = "auto"
    """float32, bfloat16, or auto: bfloat16 on processors that are quicker in it (AMX, or AMD's AVX-512), else float32. Keys and
    values are kept in it too."""
    threads: int = 0
    """Processor threads; 0 leaves it to OpenVINO, which takes one for each core."""
    prefix_cache: bool = False
    """Compute what prompts begin with in common once. Rows are sorted by their tokens into batches, and in a batch one row of
    those that begin alike goes before the others. A run that goes on after an interrupt has forgotten what came before, and
    what is computed anew can differ by rounding: only without it such a run is byte-identical."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("batch_tokens", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"OpenVINO: {name} = {getattr(self, name)} must be at least {least}")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"OpenVINO: dtype = {self.dtype!r} is none of {', '.join(get_args(Dtype))}")

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """Resolve the model and prove that the seeds train and generate on it; reads tokenizer and configuration only.

        Raises:
            UserError: what `HF.check` raises; OpenVINO GenAI is not installed; a model of a kind that is not converted.
        """
        resolved = self.hf().check(model, seeds, format)
        _openvino_model.check(model.base, _weights.tokenizer_and_config(resolved)[1])
        return resolved

    def check_sampling(self, sampling: Sampling) -> None:
        """See `protocols.EngineLimits`."""
        if name := undecodable(sampling):
            raise UserError(f"engine OpenVINO does not decode with {name}; leave it out, or use --engine HF")

    token_lengths = staticmethod(_weights.token_lengths)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[OpenVINOSession]:
        """A session on the model; it is converted and loaded at the first call that generates, and gone after the block."""
        with closing(OpenVINOSession(self, resolve_ref(model) if not model.hash else model, format)) as session:
            yield session

    def hf(self) -> HF:
        """The engine for what OpenVINO GenAI does not offer."""
        return HF(dtype=self.dtype, device="cpu")


class OpenVINOSession:
    """`protocols.Session` on one model."""

    def __init__(self, engine: OpenVINO, model: ModelRef, format: Format) -> None:
        self._engine, self._ref = engine, model
        self._texts = Texts(model, format)
        self._hf = HFSession(engine.hf(), model, self._texts)
        self.fit, self.render = self._texts.fit, self._texts.render
        self.likelihood, self.continuation, self.embed = self._hf.likelihood, self._hf.continuation, self._hf.embed
        self._loaded: tuple[Any, frozenset[int]] | None = None

    def close(self) -> None:
        """Give all memory back."""
        self._loaded = None
        self._hf.close()

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """In the order they come, or for the prefix cache by their tokens: it holds about one batch, so what begins alike is put
        together."""
        size, places = self._engine.batch_size, list(range(len(requests)))
        if self._engine.prefix_cache:
            places.sort(key=lambda place: self._texts.ids(requests[place]))
        return [tuple(places[at : at + size]) for at in range(0, len(places), size)]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """
        Raises:
            UserError: decoding that OpenVINO does not offer in the way that `Sampling` means it.
            RunFailed: memory ran out, or the model's logits are not finite.
        """
        self._engine.check_sampling(sampling)
        if not requests:
            return []
        fresh = self._loaded is None
        pipeline, own = self._load()
        rows = [_Row(self._texts.stopper(kind_of(request), sampling.stop, own)) for request in requests]
        try:
            if fresh:  # sampling takes logits that are not finite for equal ones; greedy decoding says so
                pipeline.generate([_tensor([0])], [_config(frozenset(), 0, Sampling(max_tokens=1, temperature=0.0))])
            live: list[_Row] = []
            # The rows begin in turns, the next one when the prompts of the last one are computed.
            whole = [list(range(len(requests)))]
            turns = _by_beginnings([self._texts.ids(each) for each in requests]) if self._engine.prefix_cache else whole
            for turn in turns:
                for place in turn:
                    request, config = requests[place], _config(rows[place].stopper.ids, requests[place].seed, sampling)
                    rows[place].handle = pipeline.add_request(place, _tensor(self._texts.ids(request)), config)
                live += [rows[place] for place in turn]
                while live and (turn is turns[-1] or not all(rows[place].ids for place in turn)):
                    pipeline.step()
                    live = [row for row in live if row.goes_on()]
            while pipeline.has_non_finished_requests():  # rows that were stopped leave at the next step
                pipeline.step()
        except BaseException as error:
            self._loaded = None  # with whatever it was about to compute
            if isinstance(error, RuntimeError | MemoryError):
                raise RunFailed(_explained(str(error))) from error
            _end(pipeline, rows)
            raise
        made = zip(requests, rows, strict=True)
        return [self._texts.completion(request, row.ids, row.ended, sampling.stop) for request, row in made]

    def _load(self) -> tuple[Any, frozenset[int]]:
        if self._loaded is None:
            folder, ends = _openvino_model.converted(self._ref, self._texts.config)
            self._loaded = _pipeline(self._engine, str(folder)), ends
        return self._loaded


class _Row:
    """One text under way."""

    def __init__(self, stopper: Stopper) -> None:
        self.stopper = stopper
        self.handle: Any = None
        self.ids: list[int] = []
        self.ended = False

    def goes_on(self) -> bool:
        """Take what was written since the last call; False once the row is done."""
        from openvino_genai import GenerationStatus

        while self.handle.can_read():
            for written in self.handle.read().values():
                for token in written.generated_ids:
                    self.ids.append(int(token))
                    if self.stopper.ends(self.ids):
                        self.ended = True
                        self.handle.stop()
                        return False
        status = self.handle.get_status()
        if status == GenerationStatus.IGNORED:
            raise RunFailed("memory ran out with a single row; use a shorter max_tokens or fewer demonstrations")
        return bool(status == GenerationStatus.RUNNING)


def _end(pipeline: Any, rows: Sequence[_Row]) -> None:
    """Takes what is under way out of a pipeline that is given up, or OpenVINO writes of leaked blocks when it goes."""
    for row in rows:
        if row.handle is not None:
            row.handle.stop()
    with suppress(RuntimeError):
        while pipeline.has_non_finished_requests():
            pipeline.step()


def _by_beginnings(rows: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Positions in turns such that what a row begins with in common with others was computed by one of them, a turn before.

    OpenVINO looks a prompt up in the cache once, when it is added: of prompts added together each is computed whole.
    """
    order = sorted(range(len(rows)), key=lambda place: rows[place])
    # Blocks in common with the row before, which has the most in common with this one of all rows before it.
    common = [0, *(same_until(rows[one], rows[other]) // _BLOCK for one, other in pairwise(order))]
    turns: list[list[int]] = []
    number: dict[int, int] = {}
    for at, place in enumerate(order):
        first = at - 1
        while common[at] and common[first] >= common[at]:
            first -= 1  # to the first row that begins with these blocks
        number[at] = number[first] + 1 if common[at] else 0
        if number[at] == len(turns):
            turns.append([])
        turns[number[at]].append(place)
    return turns


def _explained(message: str) -> str:
    if "isnan" in message:
        return "the model's logits are not finite; its weights are broken, or the number type is too narrow"
    return f"OpenVINO could not go on: {(message.strip() or 'memory ran out').splitlines()[0]}"


def _config(ends: frozenset[int], seed: int, sampling: Sampling) -> Any:
    from openvino_genai import GenerationConfig

    config = GenerationConfig()
    config.max_new_tokens, config.apply_chat_template = sampling.max_tokens, False
    # Without an end token of its own OpenVINO still wants one named.
    config.stop_token_ids, config.eos_token_id, config.ignore_eos = ends or {0}, min(ends, default=0), not ends
    config.do_sample, config.rng_seed = sampling.temperature > 0.0, seed
    config.logprobs = 0 if config.do_sample else 1  # so that greedy decoding looks whether the logits are finite
    if config.do_sample:
        config.temperature, config.top_p = sampling.temperature, sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
    return config


def _tensor(ids: Sequence[int]) -> Any:
    import numpy as np
    from openvino import Tensor

    return Tensor(np.array([ids], dtype=np.int64))


def _pipeline(engine: OpenVINO, folder: str) -> Any:
    import openvino_genai
    import torch

    kind = "bf16" if _weights.dtype(engine.dtype, torch.device("cpu")) is torch.bfloat16 else "f32"
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": kind, "KV_CACHE_PRECISION": kind}
    if engine.threads:
        options["INFERENCE_NUM_THREADS"] = engine.threads
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = engine.prefix_cache
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs = engine.batch_tokens, engine.batch_size
    with _without_amx() if _threads(engine.threads) == 1 else nullcontext():
        return openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", options)


@contextmanager
def _without_amx() -> Iterator[None]:
    """Has OpenVINO compute bfloat16 by AVX-512, as with AMX and a single thread it dies by SIGFPE, which nothing catches, when it
    loads a model (2026.4; github.com/openvinotoolkit/openvino/issues/33300).

    It reads the variable once, when it loads the first model of a process, in whatever number type. Set for longer it would take
    AMX from a trainer that this process starts, and where a run goes on with that trainer nobody would have set it.
    """
    name = "ONEDNN_MAX_CPU_ISA"
    given = name in os.environ  # by a user, whose word holds
    os.environ.setdefault(name, "AVX512_CORE_FP16")  # all but AMX; without effect on processors that have less
    try:
        yield
    finally:
        if not given:
            del os.environ[name]


def _threads(asked: int) -> int:
    """That OpenVINO computes on: as many as there are cores, unless fewer are asked for. Two halves of a core count as one."""
    if not hasattr(os, "sched_getaffinity"):
        return asked
    halves = (Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") for number in os.sched_getaffinity(0))
    cores = len({path.read_text("ascii") if path.is_file() else str(path) for path in halves})
    return min(asked or cores, cores)

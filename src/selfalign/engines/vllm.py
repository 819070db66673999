"""Runs models with vLLM, in a process of its own that ends when the round's work is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from selfalign.engines import _decode, _vllm_process, _weights
from selfalign.engines._requests import in_order
from selfalign.engines._requests import undecodable as only_hf
from selfalign.engines._texts import Kind, Texts, finite, kind_of
from selfalign.errors import RunFailed, UserError
from selfalign.models.files import ADAPTER, header
from selfalign.models.names import located, resolve_ref
from selfalign.models.rendering import IGNORE
from selfalign.models.sizes import window
from selfalign.types import Completion, Continuation, Example, FloatArray, Format, Likelihood, ModelRef, Request, Sampling

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM can be told to keep room for; adapters of lower ones fit in."""

_COLDEST = 0.01
"""A temperature below this one vLLM raises to it."""
_SOME = 128
"""Tokens whose log-probabilities vLLM gives for one place at most."""
_OURS = {
    *("model", "tokenizer", "skip_tokenizer_init", "trust_remote_code", "generation_config", "seed", "dtype", "max_model_len"),
    *("gpu_memory_utilization", "tensor_parallel_size", "enable_prefix_caching", "enforce_eager", "max_num_seqs"),
    *("runner", "convert", "pooler_config", "logprobs_mode"),
    *("enable_lora", "max_loras", "max_lora_rank", "lora_target_modules"),
}
"""What `extra` cannot say, as other options or the session do."""


@dataclass(frozen=True)
class VLLM:
    """Generates with vLLM's own batching, on GPUs (or on a processor, with vLLM's build for those).

    vLLM runs in a process of its own, so its memory is free when the round's work is done; another Python may run it. Prompts are
    rendered and texts read here: token ids go in and come back. A request has its own random seed; texts differ from those that
    `HF` samples with the same seeds, their distribution does not. A batch begins with an empty prefix cache, so that it is the
    same when a run that was killed makes it again, as far as the hardware computes the same twice.

    A LoRA adapter is given to vLLM by its folder, on its base. Embeddings come from a second process, in vLLM's pooling mode.
    """

    python: str = ""
    """The interpreter of another environment, which has vLLM; "" is the one that runs this."""
    batch_size: int = 256
    """Rows in one batch of the journal, all under way at once."""
    dtype: Dtype = "auto"
    """float32, bfloat16, float16, or auto, as vLLM decides: the stored type, and 16 bits for one stored in float32."""
    device: str = "auto"
    """auto or cuda: the GPUs that are visible, of which `tensor_parallel` are used; cuda:1: that one alone; cpu: none, for vLLM's
    build for processors."""
    memory: float = 0.85
    """Share of the GPU's memory that vLLM takes, weights and cache together (on a processor: of the machine's). What else needs
    the GPU at the same time (sentence encoder, reward model) has the rest."""
    context: int | None = 8192
    """Tokens of prompt and answer together, where the model has more; None: as many as the model, if there is room for them."""
    tensor_parallel: int = 1
    """GPUs that share one model."""
    prefix_cache: bool = True
    """Compute once what prompts of a batch begin with in common."""
    eager: bool = False
    """Start faster and write slower: without compiling the model and without CUDA graphs."""
    extra: dict[str, Any] = field(default_factory=dict)
    """More arguments of vLLM's `LLM`, by their names there: {"quantization": "fp8"}."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("tensor_parallel", 1), ("context", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"VLLM: {name} = {value} must be at least {least}")
        if not 0.0 < self.memory <= 1.0:
            raise ValueError(f"VLLM: memory = {self.memory} must be a share above 0, 1 at most")
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"VLLM: dtype = {self.dtype!r} is none of {', '.join(get_args(Dtype))}")
        kind, _, index = self.device.partition(":")
        if kind not in ("auto", "cuda", "cpu") or (index and not (kind == "cuda" and index.isdigit())):
            raise ValueError(f"VLLM: device = {self.device!r} is none of auto, cpu, cuda, cuda:1")
        if index and self.tensor_parallel > 1:
            raise ValueError(f"VLLM: device = {self.device} is one GPU, tensor_parallel = {self.tensor_parallel}; leave one out")
        if taken := sorted(_OURS & self.extra.keys()):
            raise ValueError(f"VLLM: extra has {', '.join(taken)}, which is not for it to say; see the engine's other options")

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """Resolve the model, prove that the seeds train and generate on it, and have vLLM say that it takes model and options
        (10 to 20 seconds, once for each model; no weights load).

        Raises:
            UserError: what `_weights.checked` raises; no interpreter, no vLLM in it, one that is too old, a model that it does
                not run, an adapter of another base or of too high a rank, no GPU for a build that needs one.
        """
        if self.python and shutil.which(Path(self.python).expanduser()) is None:
            raise UserError(f"engine.python: {self.python} is no program that can be started")
        resolved = _weights.checked(model, seeds, format, self.context)
        _weights.check_adapter(resolved)
        _vllm_process.check(self.interpreter, self.device, json.dumps(self.asked(resolved), sort_keys=True))
        return resolved

    def check_sampling(self, sampling: Sampling) -> None:
        """See `protocols.EngineLimits`."""
        if name := undecodable(sampling):
            raise UserError(f"engine VLLM does not decode with {name}; leave it out, or use --engine HF")

    token_lengths = staticmethod(_weights.token_lengths)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[VLLMSession]:
        """A session on the model; vLLM starts at the first call that needs it, and its process is gone after the block."""
        with closing(VLLMSession(self, resolve_ref(model) if not model.hash else model, format)) as session:
            yield session

    @property
    def interpreter(self) -> str:
        return str(Path(self.python).expanduser()) if self.python else ""

    def asked(self, model: ModelRef, embeds: bool = False) -> dict[str, Any]:
        """What the process is told to load, as plain data. Raises UserError: an adapter that vLLM cannot take."""
        tokenizer, config = _weights.tokenizer_and_config(model)
        own = window(config, tokenizer)
        arguments: dict[str, Any] = {
            "model": located(model.base),
            "tokenizer": str(tokenizer.name_or_path),
            "trust_remote_code": False,
            "generation_config": "vllm",  # no default of the model's decoding
            "seed": 0,  # of what has no seed of its own: nothing here
            "dtype": self.dtype,
            "max_model_len": min(own, self.context or own),
            "gpu_memory_utilization": self.memory,
            "tensor_parallel_size": self.tensor_parallel,
            "enable_prefix_caching": self.prefix_cache and not embeds,
            "enforce_eager": self.eager,
            "max_num_seqs": self.batch_size,
            **self.extra,
        }
        adapter = None
        if model.adapter:
            path = located(model.adapter)
            rank, modules = _adapter(Path(path))
            # Without the output layer where the adapter leaves it alone: vLLM's LoRA there cannot score given texts.
            arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank, "lora_target_modules": modules}
            # Name and id that no other weights have.
            digest = (model.hash or resolve_ref(model).hash)[:15]
            adapter = {"name": f"selfalign-{digest}", "id": int(digest, 16) % (2**31 - 1) + 1, "path": path}
        return {"arguments": arguments, "adapter": adapter, "embeds": embeds}


class VLLMSession:
    """`protocols.Session` on one model."""

    def __init__(self, engine: VLLM, model: ModelRef, format: Format) -> None:
        self._engine, self._ref = engine, model
        self._texts = Texts(model, format, engine.context)
        self.fit, self.render = self._texts.fit, self._texts.render
        self._children: dict[bool, _vllm_process.Child] = {}
        self._ends: frozenset[int] | None = None

    def close(self) -> None:
        """End the processes: all memory is free."""
        for child in self._children.values():
            child.close()
        self._children.clear()

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        return in_order(requests, self._engine.batch_size)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """
        Raises:
            UserError: decoding that vLLM does not offer in the way that `Sampling` means it.
            RunFailed: memory ran out, the model's logits are not finite, or vLLM's process died.
        """
        self._engine.check_sampling(sampling)
        if not requests:
            return []
        kinds = {kind: self._decoding(kind, sampling) for kind in {kind_of(request) for request in requests}}
        rows = [{"ids": self._texts.ids(each), "kind": kind_of(each), "seed": each.seed} for each in requests]
        written = self._ask("generate", rows=rows, kinds=kinds)
        return [self._completion(request, row, sampling) for request, row in zip(requests, written, strict=True)]

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        pairs = self._texts.training_ids(examples, shown, self._room())
        return [Likelihood(one.total, one.tokens) for one in self._scored(pairs)]

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """A first text that does not fit the window with the second one loses its beginning, as lm-evaluation-harness does."""
        return self._scored(self._texts.continuation_ids(pairs, self._room()))

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Texts longer than the window are cut at its end; an empty text is embedded as one end token."""
        width = self._texts.width
        if not texts:
            return np.zeros((0, width), dtype=np.float32)
        rows = self._texts.embedded_ids(texts, self._room())
        found = np.array(self._ask("embed", embeds=True, rows=rows), dtype=np.float64)
        if found.shape != (len(texts), width) or not np.isfinite(found).all() or not found.any(axis=1).all():
            raise RunFailed(
                f"vLLM gives embeddings of shape {found.shape} for {len(texts)} texts, of {width} finite numbers each"
            )
        unit: FloatArray = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _ask(self, do: str, embeds: bool = False, **asked: Any) -> Any:
        """The answer of vLLM's process, which is started where it does not run (any more)."""
        child = self._children.get(embeds)
        if child is None or not child.open:
            told = self._engine.asked(self._ref, embeds)
            child = _vllm_process.Child(self._engine.interpreter, self._engine.device, self._engine.memory)
            self._children[embeds] = child
            child.ask("load", **told)
        return child.ask(do, **asked)

    def _decoding(self, kind: Kind, sampling: Sampling) -> dict[str, Any]:
        """vLLM's sampling parameters, but for the seed. All ends are said, so none of its own holds besides."""
        stops = self._texts.stopper(kind, sampling.stop, self._own_ends())
        found: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "stop_token_ids": sorted(stops.ids),
            "ignore_eos": True,
            "detokenize": bool(stops.strings),
        }
        if stops.strings:
            found |= {"stop": list(stops.strings), "include_stop_str_in_output": True}
        if unused := self._unused():
            found["logit_bias"] = dict.fromkeys(unused, -100.0)
        return found

    def _unused(self) -> range:
        """Ids that the model embeds and its tokenizer does not have, which shall not be drawn."""
        rows = getattr(self._texts.config.get_text_config(), "vocab_size", 0)
        return range(int(max(self._texts.tokenizer.get_vocab().values())) + 1, rows)

    def _own_ends(self) -> frozenset[int]:
        if self._ends is None:
            self._ends = _weights.declared_stop_ids(self._ref, self._texts.config)
        return self._ends

    def _completion(self, request: Request, row: dict[str, Any], sampling: Sampling) -> Completion:
        stops = self._texts.stopper(kind_of(request), sampling.stop, self._own_ends())
        ids, ended = _decode.cut(row["ids"], stops)
        return self._texts.completion(request, ids, ended or row["reason"] == "stop", sampling.stop)

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Continuation]:
        """The labelled tokens of each (ids, labels).

        Where that is the last one alone, a judge's choice, all with the same ids before it cost one text, most of it in the
        prefix cache; vLLM computes a text to be scored whole.
        """
        if any(labels[0] != IGNORE for _, labels in pairs):
            raise UserError(f"a text to score does not fit the window of {self._texts.context()} tokens")
        starts = [next(place for place, label in enumerate(labels) if label != IGNORE) for _, labels in pairs]
        choices: dict[tuple[int, ...], list[int]] = {}
        whole: list[int] = []
        for place, ((ids, _), start) in enumerate(zip(pairs, starts, strict=True)):
            if start == len(ids) - 1:
                choices.setdefault(tuple(ids[:-1]), []).append(place)
            else:
                whole.append(place)
        if whole and self._ref.adapter and "lm_head" in _adapter(Path(located(self._ref.adapter)))[1]:
            raise UserError("vLLM cannot score given texts under an adapter on the output layer (lm_head); use --engine HF")
        found: dict[int, Continuation] = {}
        found.update(self._choices(choices, pairs))
        for at in range(0, len(whole), self._engine.batch_size):
            part = whole[at : at + self._engine.batch_size]
            rows = [{"ids": pairs[place][0], "start": starts[place]} for place in part]
            for place, scores in zip(part, self._ask("score", rows=rows), strict=True):
                labels = pairs[place][1][starts[place] :]
                wanted = [one for one, label in zip(scores, labels, strict=True) if label != IGNORE]
                greedy = all(own >= best for own, best in wanted)
                found[place] = Continuation(sum(own for own, _ in wanted), len(wanted), greedy)
        return finite([found[place] for place in range(len(pairs))])

    def _choices(
        self, choices: dict[tuple[int, ...], list[int]], pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Iterator[tuple[int, Continuation]]:
        parts = [(list(ids), places[at : at + _SOME]) for ids, places in choices.items() for at in range(0, len(places), _SOME)]
        for at in range(0, len(parts), self._engine.batch_size):
            some = parts[at : at + self._engine.batch_size]
            rows = [{"ids": ids, "tokens": [pairs[place][0][-1] for place in places]} for ids, places in some]
            for (_, places), scores in zip(some, self._ask("next", rows=rows), strict=True):
                for place, (own, greedy) in zip(places, scores, strict=True):
                    yield place, Continuation(own, 1, bool(greedy))

    def _room(self) -> int:
        """Tokens of a text to score or to embed: vLLM writes one behind it."""
        return self._texts.context() - 1


def undecodable(sampling: Sampling) -> str:
    """The option of a decoding that vLLM does not offer in the way that `Sampling` means it; "" for none."""
    raised = f"a temperature below {_COLDEST}, which vLLM raises" if 0.0 < sampling.temperature < _COLDEST else ""
    return only_hf(sampling) or raised


def _adapter(folder: Path) -> tuple[int, list[str]]:
    """(the rank that vLLM must keep room for, the last parts of the names of its layers) of a LoRA adapter. Raises UserError: its
    weights cannot be read, or its rank is beyond what vLLM takes."""
    found = {name: shape for name, _, shape in header(folder / ADAPTER) if ".lora_A." in name}
    if not found:
        raise UserError(
            f"{folder / ADAPTER} holds no LoRA weights of linear layers, which are all that vLLM serves; use --engine HF"
        )
    rank = max(shape[0] for shape in found.values())
    room = next((each for each in RANKS if each >= rank), None)
    if room is None:
        raise UserError(f"adapter {folder}: its rank is {rank}, vLLM takes {RANKS[-1]} at most; merge it, or use --engine HF")
    return room, sorted({name.partition(".lora_A.")[0].rpartition(".")[2] for name in found})

"""Runs models with transformers on this machine's GPU or processor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from selfalign.engines import _beams, _decode, _weights
from selfalign.engines._texts import Kind, Texts, finite, kind_of
from selfalign.errors import RunFailed
from selfalign.models.device import choose_device, empty_cache, out_of_memory
from selfalign.models.names import located, resolve_ref
from selfalign.models.rendering import IGNORE
from selfalign.models.skeleton import check_loads
from selfalign.types import Completion, Continuation, Example, FloatArray, Format, Likelihood, ModelRef, Request, Sampling

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_SHORT = 128
"""Tokens up to which padding costs next to nothing."""

_FORKED = 4
"""Answers to one prompt from which on it is read once for all of them."""

_SCORES_AT_ONCE = 2**27
"""Numbers in one batch of log-probabilities (0.5 GB in float32)."""


@dataclass(frozen=True)
class HF:
    """Generates with transformers: length-sorted padded batches, each row with a random stream of its own.

    In float32 a row's text does not depend on its neighbours; in bfloat16 it can, through the rounding of matrix products of
    other sizes. Batches are therefore planned before any text is written, from the requests alone.
    """

    batch_size: int = 32
    """Rows in one batch, where a beam is a row: 40 are eight prompts of five beams. Halved as often as need be where memory runs
    out."""
    batch_tokens: int | None = None
    """At most this many prompt tokens in one batch, padding included; None sets no limit."""
    dtype: str = "auto"
    """float32, bfloat16, float16, or auto: bfloat16 on processors and CUDA devices that are quicker in it, float16 on older CUDA
    devices, else float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: the first of CUDA, Apple's, the processor."""
    attention: str = "sdpa"
    """transformers' name of an attention implementation, such as eager or flash_attention_2."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.batch_tokens is not None and self.batch_tokens < 1):
            raise ValueError(f"HF: batch_size = {self.batch_size} and batch_tokens = {self.batch_tokens} must be at least 1")
        if self.dtype not in _weights.DTYPES:
            raise ValueError(f"HF: dtype = {self.dtype!r} is none of {', '.join(_weights.DTYPES)}")

    def check(self, model: ModelRef, seeds: Sequence[Example], format: Format) -> ModelRef:
        """Resolve the model and prove that the seeds train and generate on it; reads no weight.

        Raises:
            UserError: no such model or device, no usable template or end token, a seed that contains a marker or does
                not fit the window, a model that transformers does not load whole, as one that writes texts, with this
                attention; an adapter of another base.
        """
        choose_device(self.device)
        resolved = _weights.checked(model, seeds, format)
        check_loads(located(resolved.base), located(resolved.adapter or ""), resolved.hash, self.attention)
        return resolved

    token_lengths = staticmethod(_weights.token_lengths)

    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[HFSession]:
        """A session on the model; weights load at the first call that needs them and are gone after the block."""
        resolved = resolve_ref(model) if not model.hash else model
        with closing(HFSession(self, resolved, Texts(resolved, format))) as session:
            yield session


class HFSession:
    """`protocols.Session` on one model."""

    def __init__(self, engine: HF, model: ModelRef, texts: Texts) -> None:
        self._engine, self._ref, self._texts = engine, model, texts
        self.fit, self.render = texts.fit, texts.render
        self._weights: Any = None

    def close(self) -> None:
        """Give all memory back."""
        self._weights = None
        empty_cache()

    def plan(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        # The longest first: memory that is too small shows at once, and the time left is guessed on the safe side.
        lengths = [len(self._texts.ids(request)) for request in requests]
        return _batches(lengths, self._engine.batch_size, self._engine.batch_tokens)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        groups: dict[Kind, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(kind_of(request), []).append(place)
        done: dict[int, Completion] = {}
        for kind, places in groups.items():
            write = partial(self._write, sampling=sampling, kind=kind)
            # A beam takes the memory of a row.
            rows = max(1, self._engine.batch_size // sampling.beams) if sampling.beams > 1 else len(places)
            for part in (places[at : at + rows] for at in range(0, len(places), rows)):
                done.update(zip(part, self._halving(write, [requests[place] for place in part]), strict=True))
        return [done[place] for place in range(len(requests))]

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        """Answers that share a prompt much longer than themselves, at least `_FORKED` of them, have it read once."""
        pairs = self._texts.training_ids(examples, shown, self._texts.context())
        forks, alone = _forked(pairs)
        found = dict(zip(alone, self._scored([pairs[place] for place in alone]), strict=True))
        rows = max(1, self._engine.batch_size // max(map(len, forks), default=1))
        for at in range(0, len(forks), rows):
            part = forks[at : at + rows]
            scores = self._halving(self._score_forks, [[pairs[place] for place in fork] for fork in part])
            found.update(
                (place, one) for fork, row in zip(part, scores, strict=True) for place, one in zip(fork, row, strict=True)
            )
        return [Likelihood(one.total, one.tokens) for one in finite([found[place] for place in range(len(pairs))])]

    def continuation(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """A first text that does not fit the window with the second one loses its beginning, as lm-evaluation-harness does."""
        return finite(self._scored(self._texts.continuation_ids(pairs, self._texts.context())))

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Continuation]:
        found: list[Continuation | None] = [None] * len(pairs)
        groups = _sharing([ids for ids, _ in pairs])
        lengths = [len(pairs[group[0]][0]) for group in groups]
        for batch in _batches(lengths, self._engine.batch_size, self._engine.batch_tokens):
            rows = [[pairs[place] for place in groups[at]] for at in batch]
            for at, scores in zip(batch, self._halving(self._score, rows), strict=True):
                for place, one in zip(groups[at], scores, strict=True):
                    found[place] = one
        return [one for one in found if one is not None]

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Texts longer than the window are cut at its end; an empty text is embedded as one end token."""
        rows = self._texts.embedded_ids(texts, self._texts.context())
        out: list[FloatArray | None] = [None] * len(rows)
        for batch in _batches([len(row) for row in rows], self._engine.batch_size, self._engine.batch_tokens):
            for place, vector in zip(batch, self._halving(self._pool, [rows[place] for place in batch]), strict=True):
                out[place] = vector
        return np.array([vector for vector in out if vector is not None], dtype=np.float32).reshape(len(rows), self._texts.width)

    def _write(self, requests: Sequence[Request], sampling: Sampling, kind: Kind) -> list[Completion]:
        prompts = [self._texts.ids(request) for request in requests]
        seeds = [request.seed for request in requests]
        model, size, pad = self._model, self._vocabulary(), self._pad()
        stopper = self._stopper(kind, sampling.stop)
        penalised = sampling.repetition_penalty != 1.0 or sampling.no_repeat_ngram > 0 or sampling.length_decay is not None
        write = _decode.generate if sampling.beams > 1 or penalised else _decode.sample
        if sampling.beams > 1 and sampling.rules != "today":
            write = _beams.search
        rows = write(model, prompts, seeds, sampling, stopper, size, pad)
        made = zip(requests, rows, strict=True)
        return [self._texts.completion(request, ids, ended, sampling.stop) for request, (ids, ended) in made]

    def _score(self, groups: Sequence[Sequence[tuple[list[int], list[int]]]]) -> list[list[Continuation]]:
        """Each group in one row: its first member, which all the others begin but for their last token."""
        import torch

        counts = [[sum(label != IGNORE for label in labels) for _, labels in group] for group in groups]
        longest = [len(group[0][0]) for group in groups]
        # Texts stand at the right, so what is wanted stands in the last columns and only those need scores.
        keep = 1 + max(
            size - len(ids) + count
            for size, group, row in zip(longest, groups, counts, strict=True)
            for (ids, _), count in zip(group, row, strict=True)
        )
        if len(groups) > 1 and len(groups) * keep * self._vocabulary() > _SCORES_AT_ONCE:
            half = len(groups) // 2
            return self._score(groups[:half]) + self._score(groups[half:])
        ids, mask = _decode.pad_left([group[0][0] for group in groups], self._pad(), self._model.device)
        found: list[list[Continuation]] = []
        with torch.inference_mode():
            logits = _decode.forward(self._model, ids, mask, keep=keep).logits[:, -keep:]
            for row, (group, size) in enumerate(zip(groups, longest, strict=True)):
                found.append([])
                for (text, _), count in zip(group, counts[row], strict=True):
                    end = keep - 1 - (size - len(text))
                    found[-1].append(_continuation(logits[row, end - count : end], text[-count:]))
        return found

    def _score_forks(self, forks: Sequence[Sequence[tuple[list[int], list[int]]]]) -> list[list[Continuation]]:
        """Scores each fork's answers behind its prompt, which the model reads once for all of them."""
        import torch

        starts = [_start(fork[0][1]) for fork in forks]
        rows = [(ids[start - 1 : -1], ids[start:]) for fork, start in zip(forks, starts, strict=True) for ids, _ in fork]
        owner = [place for place, fork in enumerate(forks) for _ in fork]
        prompts = [fork[0][0][: start - 1] for fork, start in zip(forks, starts, strict=True)]
        with torch.inference_mode():
            logits = _decode.behind(self._model, prompts, owner, [before for before, _ in rows], self._pad())
            each = iter([_continuation(logits[row, : len(wanted)], wanted) for row, (_, wanted) in enumerate(rows)])
        return [[next(each) for _ in fork] for fork in forks]

    def _pool(self, rows: Sequence[list[int]]) -> list[FloatArray]:
        import torch

        ids, mask = _decode.pad_left(rows, self._pad(), self._model.device)
        with torch.inference_mode():
            hidden = _decode.forward(self._model.base_model, ids, mask).last_hidden_state.float()
            mean = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            vectors: FloatArray = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return list(vectors)

    def _halving(self, work: Callable[[Sequence[_Item]], list[_Result]], items: Sequence[_Item]) -> list[_Result]:
        """Work on all items at once, or where memory runs out on halves of them."""
        if not items:
            return []
        try:
            return work(items)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(items) == 1:
                raise RunFailed(
                    "memory ran out with a single row; use a shorter max_tokens, fewer demonstrations or a larger device"
                ) from error
        # Outside of the handler, whose traceback keeps the failed batch's tensors alive.
        empty_cache()
        half = len(items) // 2
        _log.warning("memory ran out with %d rows; going on with %d", len(items), half)
        return self._halving(work, items[:half]) + self._halving(work, items[half:])

    def _stopper(self, kind: Kind, strings: tuple[str, ...]) -> _decode.Stopper:
        return self._texts.stopper(kind, strings, _weights.own_stop_ids(self._model))

    def _vocabulary(self) -> int:
        return _weights.vocabulary(self._model, self._texts.tokenizer)

    def _pad(self) -> int:
        # Masked out everywhere, so any token will do.
        return next(
            (int(i) for i in (self._texts.tokenizer.pad_token_id, self._texts.tokenizer.eos_token_id) if i is not None), 0
        )

    @property
    def _model(self) -> Any:
        if self._weights is None:
            on = choose_device(self._engine.device)
            self._weights = _weights.weights(self._ref, on, _weights.dtype(self._engine.dtype, on), self._engine.attention)
        return self._weights


def _continuation(logits: Any, wanted: Sequence[int]) -> Continuation:
    """Of a text's tokens, by the logits that predict each, shape (tokens, vocabulary)."""
    import torch

    scores = logits.float().log_softmax(dim=-1)
    ids = torch.tensor(wanted, device=scores.device)
    total = scores.gather(-1, ids[:, None]).cpu().double().sum()  # Apple's GPUs have no float64
    return Continuation(float(total), len(wanted), bool((scores.argmax(dim=-1) == ids).all()))


def _start(labels: Sequence[int]) -> int:
    """Where the answer begins."""
    return next((place for place, label in enumerate(labels) if label != IGNORE), len(labels))


def _forked(pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[list[list[int]], list[int]]:
    """Positions of pairs (ids, labels) with the same prompt, where reading it once saves half or more; and those of the rest."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for place, (ids, labels) in enumerate(pairs):
        prompts.setdefault(tuple(ids[: _start(labels)]), []).append(place)
    forks = [
        places
        for prompt, places in prompts.items()
        if len(places) >= _FORKED and all(len(prompt) > len(pairs[place][0]) - len(prompt) > 0 for place in places)
    ]
    taken = {place for fork in forks for place in fork}
    return sorted(forks, key=lambda fork: -len(pairs[fork[0]][0])), [at for at in range(len(pairs)) if at not in taken]


def _sharing(rows: Sequence[list[int]]) -> list[list[int]]:
    """Positions of the rows in groups that one forward pass serves: all but the last token of each begins the group's first.

    The last token is only read off, never put in, so the answers of a choice, or a judge's ten scores, cost about one text.
    """
    order = sorted(range(len(rows)), key=lambda place: rows[place][:-1])  # whatever a row begins stands right behind it
    groups: list[list[int]] = []
    for place in reversed(order):
        if groups and rows[groups[-1][0]][: len(rows[place]) - 1] == rows[place][:-1]:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups[::-1]


def _batches(lengths: Sequence[int], size: int, tokens: int | None) -> list[tuple[int, ...]]:
    """Positions in batches, longest first (ties by position), at most `size` rows and `tokens` padded tokens in each.

    No row of a batch of long ones is padded to more than twice its length: a few long prompts among many short ones would
    otherwise be paid for by the whole batch, at every step (measured: 84 s instead of the 10 s of its neighbours).
    """
    batches: list[list[int]] = []
    widest = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        full = not batches or len(batches[-1]) == size
        padded = widest > _SHORT and 2 * lengths[place] < widest
        if full or padded or (tokens is not None and (len(batches[-1]) + 1) * widest > tokens):
            batches.append([])
            widest = lengths[place]
        batches[-1].append(place)
    return [tuple(batch) for batch in batches]

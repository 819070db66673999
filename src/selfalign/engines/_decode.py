"""Decoding for the HF engine: a plain sampling loop with a random stream for each row, and `generate` for all else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from selfalign.errors import RunFailed
from selfalign.types import Sampling, derive_seed

BELOW_ONE = 1.0 - 2.0**-22  # a uniform times the total must stay below the total in float32
SHARES, DRAWS = 2**38, 2**24
"""Whole numbers for probabilities and uniforms, whose product is below 2^63; what is less probable than 2^-38 is never drawn."""


class Stopper:
    """Decides whether a row of generated ids has ended."""

    def __init__(self, tokenizer: Any, ids: frozenset[int], strings: Sequence[str]) -> None:
        self._tokenizer, self.ids, self.strings = tokenizer, ids, strings
        # Decoding is needed only where the newest token can complete a stop string.
        ends = {end for string in strings for end in _spelled(string[-1])}
        vocabulary = tokenizer.get_vocab().items() if ends else ()
        self._closing = {place for text, place in vocabulary if text.startswith("<0x") or not ends.isdisjoint(text)}
        # Every token has a byte at least; one more, as a decoder may take the space from the first token it is given.
        self._reach = max((len(string.encode()) for string in strings), default=0) + 1

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of these ids ends the text."""
        if ids[-1] in self.ids:
            return True
        if ids[-1] not in self._closing:
            return False
        tail = str(self._tokenizer.decode(list(ids[-self._reach :]), skip_special_tokens=True))
        return any(string in tail for string in self.strings)


def _spelled(end: str) -> set[str]:
    """How the last character of a string may end in a vocabulary's own spelling of its tokens.

    As itself; as a byte of a byte-level vocabulary (GPT-2's alphabet: the bytes that are no visible Latin-1 character are, in
    order, the characters from U+0100 on); a space as SentencePiece's U+2581.
    """
    hidden = [byte for byte in range(256) if not (0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE)]
    last = end.encode()[-1]
    byte = chr(0x100 + hidden.index(last)) if last in hidden else chr(last)
    return {end, byte, *("\u2581" if end == " " else "")}


def uniforms(seeds: Sequence[int], count: int) -> Any:
    """`count` numbers in [0, 1) from each seed's own counter-based stream, shape (len(seeds), count), float64."""
    import numpy as np

    return np.stack([np.random.Generator(np.random.Philox(key=seed)).random(count) for seed in seeds])


def pick(logits: Any, uniform: Any, sampling: Sampling, whole: bool | None = None) -> Any:
    """One token for each row by the inverse of its cumulative distribution; a non-finite row gives the vocabulary's size.

    On a GPU a sum of floats is taken in parts, in no fixed order: it may fall where it should stand still, so that a token of
    probability 0 could be drawn, and the same draw could give another token. There probabilities are summed as whole numbers.

    Args:
        logits: shape (rows, vocabulary).
        uniform: one number in [0, 1) for each row.
        sampling: temperature, top_k and top_p are used.
        whole: sum whole numbers; None: everywhere but on a processor.
    """
    import torch

    scores, size = logits.float(), logits.shape[-1]
    whole = scores.device.type != "cpu" if whole is None else whole
    if sampling.temperature == 0.0:
        best, chosen = scores.max(dim=-1)
        return torch.where(torch.isfinite(best), chosen, size)
    scores = scores / sampling.temperature
    if 0 < sampling.top_k < size:
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = scores.sort(dim=-1, descending=True)
        share = ordered.softmax(dim=-1)
        most = sampling.top_p
        if whole:
            share, most = (share * SHARES).long(), int(sampling.top_p * SHARES)
        outside = share.cumsum(dim=-1) - share >= most
        scores = scores.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    shares = scores.softmax(dim=-1)
    if whole:
        heights = (shares.nan_to_num() * SHARES).long().cumsum(dim=-1)  # of a row that is not finite all are 0
        target = ((uniform.clamp(max=BELOW_ONE) * DRAWS).long()[:, None] * heights[:, -1:]) // DRAWS
        return torch.searchsorted(heights, target, right=True)[:, 0]
    heights = shares.cumsum(dim=-1)
    total = heights[:, -1:]
    target = uniform.to(total.dtype).clamp(max=BELOW_ONE)[:, None] * total
    chosen = torch.searchsorted(heights, target, right=True)[:, 0]
    return torch.where(torch.isfinite(total[:, 0]), chosen, size)


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Any, Any]:
    """(ids, mask), both of shape (rows, longest), the texts at the right."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return ids.to(device), mask.to(device)


def sample(
    model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, stopper: Stopper, size: int, pad: int
) -> list[tuple[list[int], bool]]:
    """Sample a batch: for each prompt its new ids and whether it ended itself. Rows that have ended leave the batch.

    A row's text depends on its prompt and its seed; on its neighbours only as far as the rounding of a larger or
    smaller matrix product goes (in float32 measured to change no token, in bfloat16 it can).

    Args:
        size: ids from here on are padding of the vocabulary and never chosen.

    Raises:
        RunFailed: the model's logits are not finite.
    """
    import torch
    from transformers import DynamicCache

    draws = torch.from_numpy(uniforms(seeds, sampling.max_tokens)).to(torch.float32).to(model.device)
    ids, mask = pad_left(prompts, pad, model.device)
    cache = DynamicCache(config=model.config)
    texts: list[list[int]] = [[] for _ in prompts]
    ended, live = [False] * len(prompts), list(range(len(prompts)))
    with torch.inference_mode():
        for step in range(sampling.max_tokens):
            out = forward(model, ids, mask, keep=1, cache=cache)
            chosen = pick(out.logits[:, -1, :size], draws[live, step], sampling)
            staying = []
            for place, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                if token >= size:
                    raise RunFailed("the model's logits are not finite; its weights are broken, or the number type is too narrow")
                texts[row].append(token)
                ended[row] = stopper.ends(texts[row])
                if not ended[row]:
                    staying.append(place)
            if not staying:
                break
            if len(staying) < len(live):
                index = torch.tensor(staying, device=model.device)
                cache.batch_select_indices(index)
                mask, chosen = mask[index], chosen[index]
                live = [live[place] for place in staying]
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones((len(live), 1))], dim=-1)
    return list(zip(texts, ended, strict=True))


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    stopper: Stopper,
    size: int,
    pad: int,
) -> list[tuple[list[int], bool]]:
    """The same through transformers' `generate`: beams, penalties.

    With one beam each row keeps its own random stream. Beam sampling draws for the whole batch from one stream seeded
    by all its rows, so there a text depends on the batch it was planned into (not in `_beams`, which has the beams of an earlier
    version). Without an end token the length decay does nothing.
    """
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    ids, mask = pad_left(prompts, pad, model.device)
    rows = sampling.beams == 1 and sampling.temperature > 0.0
    processors = LogitsProcessorList([_only_vocabulary(size)])
    if sampling.rules != "today":
        processors.append(_earlier_decay(sorted(stopper.ids), ids.shape[1], sampling.length_decay))
    if rows:
        draws = torch.from_numpy(uniforms(seeds, sampling.max_tokens)).to(torch.float32).to(model.device)
        processors.append(_row_sampler(draws, ids.shape[1], sampling))
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=sampling.max_tokens,
        num_beams=sampling.beams,
        repetition_penalty=sampling.repetition_penalty,
        no_repeat_ngram_size=sampling.no_repeat_ngram,
        length_penalty=sampling.length_penalty,
        exponential_decay_length_penalty=sampling.length_decay if stopper.ids and sampling.rules == "today" else None,
        eos_token_id=sorted(stopper.ids) or None,
        pad_token_id=pad,
        **_drawing(sampling, rows),
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(derive_seed(0, *seeds))
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([_stop_criterion(stopper, ids.shape[1])]),
        )
    return [cut(row, stopper) for row in out[:, ids.shape[1] :].tolist()]


def _drawing(sampling: Sampling, rows: bool) -> dict[str, Any]:
    """What `generate` draws with; nothing where the rows draw for themselves or decoding is greedy."""
    if rows or sampling.temperature == 0.0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}


def cut(row: list[int], stopper: Stopper) -> tuple[list[int], bool]:
    """The ids up to where the text first ends, and whether it does."""
    for length in range(1, len(row) + 1):
        if stopper.ends(row[:length]):
            return row[:length], True
    return row, False


def _only_vocabulary(size: int) -> Any:
    def process(ids: Any, scores: Any) -> Any:
        if scores.shape[-1] > size:
            scores[:, size:] = -float("inf")
        return scores

    return process


def _earlier_decay(ends: Sequence[int], width: int, decay: tuple[int, float] | None) -> Any:
    def process(ids: Any, scores: Any) -> Any:
        return decayed(scores, ids.shape[1] - width, ends, decay)

    return process


def decayed(scores: Any, step: int, ends: Sequence[int], decay: tuple[int, float] | None) -> Any:
    """The length decay of transformers 4.31: what an end token scores times factor^(step - start), `step` new tokens written."""
    if decay is None or step <= decay[0] or not ends:
        return scores
    start, factor = decay
    scores = scores.clone()
    scores[:, list(ends)] *= math.exp(min((step - start) * math.log(factor), 88.0))  # as far as float32 goes
    return scores


def _row_sampler(draws: Any, width: int, sampling: Sampling) -> Any:
    def process(ids: Any, scores: Any) -> Any:
        import torch

        chosen = pick(scores, draws[:, ids.shape[1] - width], sampling).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen[:, None], 0.0)

    return process


def _stop_criterion(stopper: Stopper, width: int) -> Any:
    def ended(ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.tensor([stopper.ends(row) for row in ids[:, width:].tolist()], device=ids.device)

    return ended


def behind(model: Any, prompts: Sequence[Sequence[int]], owner: Sequence[int], rows: Sequence[Sequence[int]], pad: int) -> Any:
    """Logits of rows of ids, each behind the prompt whose place `owner` names; shape (rows, longest row, vocabulary).

    Each prompt is read once, however many rows stand behind it.
    """
    import torch
    from transformers import DynamicCache

    ids, mask = pad_left(prompts, pad, model.device)
    cache = DynamicCache(config=model.config)
    forward(model, ids, mask, keep=1, cache=cache)
    index = torch.tensor(owner, device=model.device)
    cache.batch_select_indices(index)
    width = max(map(len, rows))
    # Padding stands behind the rows, where no token of theirs looks.
    columns = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long, device=model.device)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=mask.dtype, device=model.device)
    return forward(model, columns, torch.cat([mask[index], real], dim=-1), cache=cache).logits


def forward(model: Any, ids: Any, mask: Any, *, keep: int | None = None, cache: Any = None) -> Any:
    """One forward pass over left-padded ids, logits at the last `keep` columns only where the architecture can.

    Args:
        ids: shape (rows, columns); with a filled cache only the columns that are new.
        mask: shape (rows, all columns so far), 1 on real tokens.
    """
    takes = inspect.signature(model.forward).parameters
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    options = {"position_ids": positions, "logits_to_keep": keep, "past_key_values": cache, "use_cache": cache is not None}
    return model(
        input_ids=ids,
        attention_mask=mask,
        **{name: value for name, value in options.items() if value is not None and name in takes},
    )

"""Beam search by the rules of transformers 4.31, which ISARA's scripts ran on: today's library scores beams otherwise.

Three things differ, and each changes which texts win:

* the length decay multiplies the log-probability of an end token by factor^k, k tokens past its start, so that with a factor
  above 1 the end becomes less likely; today's rule adds |log-probability| * (factor^k - 1), which makes it more likely
  (huggingface/transformers #25416, changed by #25594);
* a finished beam's score is divided by (prompt + generated length)^length_penalty, where today the prompt does not count;
* with sampling, temperature, top_k and top_p apply to the beams' running scores, all beams start alike, and the continuations
  drawn are ranked by score before the first ones of them may end a text.

Strings end no beam: a text is cut before them when it is written. Two things are our own choice: each prompt draws from a
random stream of its own, so that its text depends on no neighbour (theirs draw from one), and its length counts no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfalign.engines._decode import BELOW_ONE, Stopper, cut, decayed, forward, pad_left, uniforms
from selfalign.errors import RunFailed
from selfalign.types import Sampling


def search(
    model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, stopper: Stopper, size: int, pad: int
) -> list[tuple[list[int], bool]]:
    """For each prompt the new ids of its best beam and whether it ended itself. Prompts that are done leave the batch.

    Args:
        size: ids from here on are padding of the vocabulary and never chosen.

    Raises:
        RunFailed: the model's logits are not finite.
    """
    import torch
    from transformers import DynamicCache

    beams, ends = sampling.beams, sorted(stopper.ids)
    count = max(2, 1 + len(ends)) * beams  # so many may end at once that a full set of beams is left
    ids, mask = pad_left(prompts, pad, model.device)
    draws = torch.from_numpy(uniforms(seeds, sampling.max_tokens * count)).to(torch.float32).to(model.device)
    draws = draws.view(len(prompts), sampling.max_tokens, count)
    best = [Best(beams, sampling.length_penalty) for _ in prompts]
    live, cache, width = list(range(len(prompts))), DynamicCache(config=model.config), ids.shape[1]
    with torch.inference_mode():
        # Computed once for all beams of a prompt: they begin alike.
        logits = forward(model, ids, mask, keep=1, cache=cache).logits[:, -1, :size].repeat_interleave(beams, dim=0)
        cache.batch_repeat_interleave(beams)
        ids, mask = (each.repeat_interleave(beams, dim=0) for each in (ids, mask))
        running = torch.zeros(len(prompts), beams, device=model.device)
        if sampling.temperature == 0.0:
            running[:, 1:] = -1e9
        for step in range(sampling.max_tokens):
            if step:
                logits = forward(model, ids[:, -1:], mask, keep=1, cache=cache).logits[:, -1, :size]
            scores = running.view(-1, 1) + processed(logits, ids, mask, step, ends, sampling)
            totals, places, tokens = continuations(scores.view(len(live), beams, -1), draws[live, step], sampling, len(ends))
            staying, rows = [], []
            for at, (prompt, *ranked) in enumerate(zip(live, totals.tolist(), places.tolist(), tokens.tolist(), strict=True)):
                length, going = len(prompts[prompt]) + step, []
                for rank, (total, place, token) in enumerate(zip(*ranked, strict=True)):
                    if token not in stopper.ids:
                        going.append(rank)
                    elif rank < beams:
                        best[prompt].add(total, length, [*ids[at * beams + place, width:].tolist(), token])
                    if len(going) == beams:
                        break
                if not best[prompt].beats(max(ranked[0]), length):
                    staying.append(at)
                    rows.append(going)
            if not staying:
                live = []
                break
            stay, kept = torch.tensor(staying, device=ids.device)[:, None], torch.tensor(rows, device=ids.device)
            running, index = totals[stay, kept], (stay * beams + places[stay, kept]).flatten()
            cache.batch_select_indices(index)
            ids = torch.cat([ids[index], tokens[stay, kept].view(-1, 1)], dim=-1)
            mask = torch.cat([mask[index], mask.new_ones((len(index), 1))], dim=-1)
            live = [live[place] for place in staying]
    for at, prompt in enumerate(live):
        for row, total in enumerate(running[at].tolist(), at * beams):
            best[prompt].add(total, len(prompts[prompt]) + sampling.max_tokens, ids[row, width:].tolist())
    return [cut(one.text, stopper) for one in best]


class Best:
    """The best finished texts of one prompt, at most so many."""

    def __init__(self, most: int, penalty: float) -> None:
        self._most, self._penalty, self._texts = most, penalty, list[tuple[float, list[int]]]()

    def add(self, total: float, length: int, text: list[int]) -> None:
        """`total` is the sum of the text's scores, `length` counts prompt and text, without the end token."""
        texts = [(total / length**self._penalty, text), *self._texts]
        self._texts = sorted(texts, key=lambda each: each[0])[-self._most :]

    def beats(self, total: float, length: int) -> bool:
        """Whether there are enough texts, and none that goes on from these could still become one of them."""
        return len(self._texts) == self._most and self._texts[0][0] >= total / length**self._penalty

    @property
    def text(self) -> list[int]:
        return self._texts[-1][1]


def processed(logits: Any, ids: Any, mask: Any, step: int, ends: Sequence[int], sampling: Sampling) -> Any:
    """Log-probabilities of the next token behind `step` new ones, with the penalties of the sampling; shape as `logits`."""
    import torch
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    scores = logits.float().log_softmax(dim=-1)
    if not torch.isfinite(scores.amax(dim=-1)).all():
        raise RunFailed("the model's logits are not finite; its weights are broken, or the number type is too narrow")
    if sampling.repetition_penalty != 1.0:
        padding = (mask == 0).sum(dim=-1)
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=padding)(ids, scores)
    if sampling.no_repeat_ngram:
        scores = NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram)(ids, scores)
    return decayed(scores, step, ends, sampling.length_decay)


def continuations(scores: Any, uniform: Any, sampling: Sampling, ends: int) -> tuple[Any, Any, Any]:
    """(totals, beams, tokens) of the continuations of each prompt, shape (prompts, continuations), the best ones first.

    Args:
        scores: running score and log-probability together, shape (prompts, beams, vocabulary).
        uniform: numbers in [0, 1), one for each continuation wanted.
        ends: how many end tokens there are; top_k and top_p leave one token more at least.
    """
    import torch
    from transformers import TopPLogitsWarper

    prompts, _, size = scores.shape
    if sampling.temperature == 0.0:
        totals, chosen = scores.view(prompts, -1).topk(uniform.shape[1])
        return totals, chosen // size, chosen % size
    scores, least = (scores / sampling.temperature).view(-1, size), max(ends, 1) + 1
    kept = min(max(sampling.top_k, least), size) if sampling.top_k else size
    scores, tokens = scores.topk(kept)
    if sampling.top_p < 1.0:
        scores = TopPLogitsWarper(sampling.top_p, min_tokens_to_keep=least)(None, scores)
    scores, tokens = scores.view(prompts, -1), tokens.view(prompts, -1)
    chosen = drawn(scores, uniform)
    totals, order = scores.gather(1, chosen).sort(dim=-1, descending=True)
    chosen = chosen.gather(1, order)
    return totals, torch.div(chosen, kept, rounding_mode="floor"), tokens.gather(1, chosen)


def drawn(scores: Any, uniform: Any) -> Any:
    """Columns drawn one after the other without replacement, in proportion to exp(score); as many as there are numbers.

    Where all that is left has no probability, the best of it.
    """
    import torch

    left, barred, columns = scores.softmax(dim=-1), scores.clone(), []
    for one in uniform.clamp(max=BELOW_ONE).unbind(dim=-1):
        heights = left.cumsum(dim=-1)
        place = torch.searchsorted(heights, one[:, None] * heights[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)
        place = torch.where(left.gather(1, place) > 0.0, place, barred.argmax(dim=-1, keepdim=True))
        left.scatter_(1, place, 0.0)
        barred.scatter_(1, place, -torch.inf)
        columns.append(place)
    return torch.cat(columns, dim=-1)

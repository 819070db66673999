"""Prompts that say what another one says in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.filters._shared import Field, Verdict, split, text_of
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult, FloatArray

_COLUMNS = 2048  # pool rows compared at once, so that a large pool costs no large matrix


@dataclass(frozen=True)
class NearDuplicates:
    """Drops an example whose embedding has a cosine above `max_similarity` with one that is there already (our own addition).

    Compared with the pool and with what this call has kept so far, in slot order. It finds what ROUGE-L cannot: the same
    question with other words.
    """

    max_similarity: float = 0.95
    """Cosine in [-1, 1]; what is near depends on the encoder."""
    field: Field = "prompt"

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `near_duplicate`; evidence: cosine, id and text of the nearest one."""
        if not examples:
            return FilterResult((), ())
        pool = context.pool.examples
        rows = context.encode([text_of(example, self.field) for example in examples])
        score, where = _nearest(rows, context.encode([text_of(example, self.field) for example in pool]))
        kept_rows = np.empty_like(rows)
        kept: list[Example] = []

        def judge(example: Example) -> Verdict:
            row = judge_next()
            best, other = float(score[row]), pool[where[row]] if pool else None
            if kept:
                inside = kept_rows[: len(kept)] @ rows[row]
                nearest = int(inside.argmax())
                if inside[nearest] > best:
                    best, other = float(inside[nearest]), kept[nearest]
            if other is not None and best > self.max_similarity:
                seen = f"cosine {best:.3f} > {self.max_similarity} with {other.id}"
                return "near_duplicate", f"{seen}: {text_of(other, self.field)}"
            kept_rows[len(kept)] = rows[row]
            kept.append(example)
            return None

        judge_next = iter(range(len(examples))).__next__
        return split(examples, judge)


def _nearest(rows: FloatArray, pool: FloatArray) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Cosine and position of each row's nearest pool row, the first among equals; (-inf, 0) for an empty pool."""
    best, where = np.full(len(rows), -np.inf, dtype=np.float32), np.zeros(len(rows), dtype=np.intp)
    for start in range(0, len(pool), _COLUMNS):
        scores = rows @ pool[start : start + _COLUMNS].T
        position = scores.argmax(axis=1)
        score = scores[np.arange(len(rows)), position]
        better = score > best
        best[better], where[better] = score[better], position[better] + start
    return best, where

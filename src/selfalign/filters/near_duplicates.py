"""Prompts that say what another one says in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.filters._shared import Field, Verdict, split, text_of
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult, FloatArray

_ROWS, _COLUMNS = 256, 2048  # candidates and pool rows compared at once, so that many of either cost no large matrix


@dataclass(frozen=True)
class NearDuplicates:
    """Drops an example whose embedding has a cosine above `max_similarity` with one that is there already (our own addition).

    Compared with the pool and with what this call has kept so far, in slot order. It finds what ROUGE-L cannot: the same
    question with other words.
    """

    max_similarity: float = 0.95
    """Cosine in [-1, 1]; what is near depends on the encoder. Above 1 nothing is dropped."""
    field: Field = "prompt"

    def __post_init__(self) -> None:
        if not self.max_similarity >= -1.0:
            raise ValueError(f"NearDuplicates: max_similarity = {self.max_similarity} is out of range: at least -1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `near_duplicate`; evidence: cosine, id and text of the nearest one."""
        if not examples:
            return FilterResult((), ())
        pool = context.pool.examples
        rows = context.encode([text_of(example, self.field) for example in examples])
        nearest = _nearest_growing(rows, context.encode([text_of(example, self.field) for example in pool]), self.max_similarity)
        known: Sequence[Example] = (*pool, *examples)
        verdicts = iter([self._verdict(score, known[place] if place >= 0 else None) for score, place in nearest])
        return split(examples, lambda _: next(verdicts))

    def _verdict(self, score: float, other: Example | None) -> Verdict:
        if other is None or score <= self.max_similarity:
            return None
        return "near_duplicate", f"cosine {score:.3f} > {self.max_similarity} with {other.id}: {text_of(other, self.field)}"


def _nearest_growing(rows: FloatArray, pool: FloatArray, max_similarity: float) -> list[tuple[float, int]]:
    """Cosine and position of each row's nearest among the pool and the earlier rows that passed (cosine <= max_similarity).

    The first among equals; a position at or past len(pool) is that of an earlier row, -1 stands where there was none. Rows go
    in blocks: one by one, each would read all that passed before it from memory (10,000 rows of 384: 16 s instead of 0.7).
    """
    passed_rows, passed = np.empty_like(rows), list[int]()
    result: list[tuple[float, int]] = []
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        best, where = _nearest(block, pool)
        earlier, place = _nearest(block, passed_rows[: len(passed)])
        inside = block @ block.T
        new: list[int] = []
        for i in range(len(block)):
            score, position = float(best[i]), int(where[i])
            if earlier[i] > score:
                score, position = float(earlier[i]), len(pool) + passed[place[i]]
            if new and (highest := float(inside[i, new].max())) > score:
                score, position = highest, len(pool) + start + new[int(inside[i, new].argmax())]
            if score <= max_similarity:
                new.append(i)
            result.append((score, position))
        passed_rows[len(passed) : len(passed) + len(new)] = block[new]
        passed += [start + i for i in new]
    return result


def _nearest(rows: FloatArray, pool: FloatArray) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Cosine and position of each row's nearest pool row, the first among equals; (-inf, -1) for an empty pool."""
    best, where = np.full(len(rows), -np.inf, dtype=np.float32), np.full(len(rows), -1, dtype=np.intp)
    for start in range(0, len(pool), _COLUMNS):
        scores = rows @ pool[start : start + _COLUMNS].T
        position = scores.argmax(axis=1)
        score = scores[np.arange(len(rows)), position]
        better = score > best
        best[better], where[better] = score[better], position[better] + start
    return best, where

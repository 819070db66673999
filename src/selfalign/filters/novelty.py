"""Prompts that repeat what is there already: exactly, by shared word sequences, or in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfalign.filters._shared import Field, Verdict, split, text_of
from selfalign.protocols import Context
from selfalign.text import Overlap, normalise, rouge_l_growing, rouge_l_max
from selfalign.types import Example, FilterResult, FloatArray


@dataclass(frozen=True)
class Exact:
    """Drops a prompt equal to one kept earlier in the same batch (ISARA: identical strings, this iteration only).

    ISARA compares with what all its filters kept; stand it last in a recipe for the same effect.
    """

    ignore_case: bool = False
    """Compare case-folded with white space collapsed (our own choice where True; ISARA compares raw strings)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `duplicate`."""
        seen: dict[str, str] = {}

        def judge(example: Example) -> Verdict:
            key = normalise(example.prompt) if self.ignore_case else example.prompt
            first = seen.setdefault(key, example.id)
            return None if first == example.id else ("duplicate", f"same prompt as {first}: {example.prompt}")

        return split(examples, judge)


@dataclass(frozen=True)
class Novelty:
    """Drops an example whose text has a ROUGE-L F1 above `max_overlap` with one that is there already; exact.

    `against="pool"` (ours): the seeds, all that earlier rounds kept, and what this call has kept so far, in slot order; as in
    Self-Instruct. `against="demonstrations"`: only the prompts shown when this one was written, as ISARA's code does, which
    lets a round repeat itself.
    """

    max_overlap: float = 0.7
    """In [0, 1]; the paper's 0.7."""
    against: Literal["pool", "demonstrations"] = "pool"
    field: Field = "prompt"
    unicode: bool = True
    """Count words of every script; False counts a-z and 0-9 alone, as ISARA's ROUGE does. No difference for ASCII text."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_overlap <= 1.0:
            raise ValueError(f"Novelty: max_overlap = {self.max_overlap} is out of range: between 0 and 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `not_novel`; evidence: score, id and text of the nearest one.

        Raises:
            KeyError: against="demonstrations" and a demonstration is not in the pool.
        """
        pool = context.pool.examples
        if self.against == "pool":
            texts = [text_of(example, self.field) for example in examples]
            references = [text_of(example, self.field) for example in pool]
            nearest = rouge_l_growing(texts, references, self.max_overlap, unicode=self.unicode)
            known: Sequence[Example] = (*pool, *examples)
            found = [(overlap, known[overlap.position] if overlap.position >= 0 else None) for overlap in nearest]
        else:
            by_id = {example.id: example for example in pool}
            found = [self._among_demonstrations(example, by_id) for example in examples]
        verdicts = iter([self._verdict(*pair) for pair in found])
        return split(examples, lambda _: next(verdicts))

    def _among_demonstrations(self, example: Example, by_id: dict[str, Example]) -> tuple[Overlap, Example | None]:
        shown = [by_id[demonstration.id] for demonstration in example.prompt_demonstrations]
        texts = [text_of(other, self.field) for other in shown]
        (overlap,) = rouge_l_max([text_of(example, self.field)], texts, unicode=self.unicode)
        return overlap, shown[overlap.position] if shown else None

    def _verdict(self, overlap: Overlap, other: Example | None) -> Verdict:
        if other is None or overlap.score <= self.max_overlap:
            return None
        return "not_novel", f"ROUGE-L {overlap.score:.3f} > {self.max_overlap} with {other.id}: {text_of(other, self.field)}"


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

"""Prompts that repeat what is there already: exactly, by shared word sequences, or in other words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from selfalign.filters._conversations import by_conversation, repeated
from selfalign.filters._index import nearest_above
from selfalign.filters._near import nearest_above as nearest_by_cosine
from selfalign.filters._shared import Field, Verdict, above, near_top, split, text_of
from selfalign.protocols import Context
from selfalign.text import TENTH, normalise, rouge_l_growing, rouge_l_matrix, rouge_l_max, words
from selfalign.types import Example, FilterResult

INDEXED, _MIDDLE = 10_000, 0.5
"""From so many texts on, and where the bound is not low, those with rare words in common are compared, not all pairs: the same
verdicts."""
Near = tuple[float, Example | None]
"""How like a text is to the one it is most like, and whose that is."""
_SAMPLE, _AT_ONCE = 256, 16_384
"""Seeds whose nearest other seed is looked for, evenly drawn where there are more; and with how many at once."""


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
    """What a text is compared with: all there is (pool), or only what was shown when it was written."""
    field: Field = "prompt"
    """Which text of an example is looked at."""
    unicode: bool = True
    """Count words of every script; False counts a-z and 0-9 alone, as ISARA's ROUGE does. No difference for ASCII text."""
    learn: bool = True
    """The bound is at least a third of the way from the seeds' own overlap to 1: what one in twenty of them exceeds with its
    nearest (prompts of one pattern are alike). Where that is above 0.99, copies alone are dropped; where more than a tenth
    have the `field` in common, whole prompts are compared, and where these are in common too, with another system prompt or
    other earlier turns, those alone before which the same was said."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_overlap <= 1.0:
            raise ValueError(f"Novelty: max_overlap = {self.max_overlap} is out of range: between 0 and 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `not_novel`; evidence: score, id and text of the nearest one.

        Raises:
            KeyError: against="demonstrations" and a demonstration is not in the pool.
        """
        pool, seeds = context.pool.examples, context.pool.seeds if self.learn else ()
        field: Field = "prompt" if repeated(seeds, self.field) else self.field
        usual = self._usual([text_of(seed, field) for seed in seeds])
        bound = min(above(self.max_overlap, usual), max(self.max_overlap, 0.99))

        def judge(some: Sequence[Example], known: Sequence[Example]) -> FilterResult:
            if usual > bound:
                return _without_copies("not_novel", some, known, field)
            near = self._in_pool(some, known, bound, field) if self.against == "pool" else self._as_shown(some, known, field)
            return _without_near("not_novel", "ROUGE-L", some, near, bound, field)

        apart = self.against == "pool" and repeated(seeds, field)
        return by_conversation(examples, pool, judge) if apart else judge(examples, pool)

    def _in_pool(self, examples: Sequence[Example], pool: Sequence[Example], bound: float, field: Field) -> list[Near]:
        texts, references = ([text_of(each, field) for each in side] for side in (examples, pool))
        indexed = len(texts) + len(references) >= INDEXED and bound >= _MIDDLE
        nearest = (nearest_above if indexed else rouge_l_growing)(texts, references, bound, unicode=self.unicode)
        known = (*pool, *examples)
        return [(score, known[place] if place >= 0 else None) for score, place in nearest]

    def _as_shown(self, examples: Sequence[Example], pool: Sequence[Example], field: Field) -> list[Near]:
        by_id, found = {example.id: example for example in pool}, list[Near]()
        for example in examples:
            shown = [by_id[demonstration.id] for demonstration in example.prompt_demonstrations]
            texts = [text_of(other, field) for other in shown]
            ((score, place),) = rouge_l_max([text_of(example, field)], texts, unicode=self.unicode)
            found.append((score, shown[place] if shown else None))
        return found

    def void(self, seeds: Sequence[Example]) -> str:
        """As `proof.seed_rules.Voidable`."""
        texts = [text_of(seed, self.field) for seed in seeds]
        blind = [text for text in texts if 2 * len(words(text, unicode=self.unicode)) < len(words(text, unicode=True))]
        if len(blind) <= TENTH * len(texts):
            return ""
        return (
            f"counts words of a-z and 0-9 alone, which {len(blind)} of {len(texts)} seeds are not written in: copies pass as new"
        )

    def _usual(self, texts: Sequence[str]) -> float:
        rows, different = _drawn(texts)
        drawn = [different[i] for i in rows]
        return _nearest_other(rows, different, lambda some: rouge_l_matrix(drawn, some, unicode=self.unicode))


def _drawn(texts: Sequence[str]) -> tuple[list[int], list[str]]:
    """(positions of a sample among them, the different ones of the texts)."""
    different = list({normalise(text): text for text in texts}.values())
    return list(range(len(different)))[:: -(-len(different) // _SAMPLE) or 1], different


def _nearest_other(rows: Sequence[int], known: Any, likeness: Callable[[Any], Any]) -> float:
    """What one in twenty of the rows, the known ones at those places, exceeds with its nearest other one."""
    if len(known) < 2:
        return 0.0
    best, places = np.full(len(rows), -np.inf), np.array(rows)
    for start in range(0, len(known), _AT_ONCE):
        scores = likeness(known[start : start + _AT_ONCE])
        own = np.flatnonzero((places >= start) & (places < start + _AT_ONCE))
        scores[own, places[own] - start] = -np.inf
        best = np.maximum(best, scores.max(axis=1))
    return near_top(best.tolist())


def _without_near(
    rule: str, measure: str, examples: Sequence[Example], near: Sequence[Near], bound: float, field: Field
) -> FilterResult:
    """`near`: of each example the likeness to the nearest text there is, and whose that is."""
    found = iter(near)

    def judge(_: Example) -> Verdict:
        score, other = next(found)
        if other is None or score <= bound:
            return None
        return rule, f"{measure} {score:.3f} > {bound:.3g} with {other.id}: {text_of(other, field)}"

    return split(examples, judge)


def _without_copies(rule: str, examples: Sequence[Example], pool: Sequence[Example], field: Field) -> FilterResult:
    """Where the measure cannot tell the seeds from one another, the text itself still can."""
    seen = {normalise(text_of(other, field)): other.id for other in pool}

    def judge(example: Example) -> Verdict:
        first = seen.setdefault(normalise(text_of(example, field)), example.id)
        return None if first == example.id else (rule, f"the same text as {first}: {text_of(example, field)}")

    return split(examples, judge)


@dataclass(frozen=True)
class NearDuplicates:
    """Drops an example whose embedding has a cosine above `max_similarity` with one that is there already (our own addition).

    Compared with the pool and with what this call has kept so far, in slot order. It finds what ROUGE-L cannot: the same
    question with other words.
    """

    max_similarity: float = 0.95
    """Cosine in [-1, 1]; what is near depends on the encoder. Above 1 nothing is dropped."""
    field: Field = "prompt"
    """Which text of an example is looked at."""
    learn: bool = True
    """The bound is at least a third of the way from the seeds' own cosine to 1: what one in twenty of them exceeds with its
    nearest (one pattern, another encoder). Where that is above 0.999, copies alone are dropped; where more than a tenth ask the
    same with another system prompt or other earlier turns, those before which the same was said are compared."""

    def __post_init__(self) -> None:
        if not self.max_similarity >= -1.0:
            raise ValueError(f"NearDuplicates: max_similarity = {self.max_similarity} is out of range: at least -1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `near_duplicate`; evidence: cosine, id and text of the nearest one."""
        if not examples:
            return FilterResult((), ())
        pool, usual = context.pool, self._usual(context) if self.learn else -1.0
        bound = min(above(self.max_similarity, usual), max(self.max_similarity, 0.999))

        def judge(some: Sequence[Example], pool: Sequence[Example]) -> FilterResult:
            if usual > bound:
                return _without_copies("near_duplicate", some, pool, self.field)
            rows, references = (context.encode([text_of(each, self.field) for each in side]) for side in (some, pool))
            known = (*pool, *some)
            near = [(score, known[at] if at >= 0 else None) for score, at in nearest_by_cosine(rows, references, bound)]
            return _without_near("near_duplicate", "cosine", some, near, bound, self.field)

        if self.learn and repeated(pool.seeds, self.field):
            return by_conversation(examples, pool.examples, judge)
        return judge(examples, pool.examples)

    def _usual(self, context: Context) -> float:
        rows, different = _drawn([text_of(seed, self.field) for seed in context.pool.seeds])
        vectors = context.encode(different)
        return _nearest_other(rows, vectors, lambda some: vectors[rows] @ some.T)

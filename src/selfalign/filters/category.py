"""Prompts and answers of another kind than the one that was aimed at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.filters._shared import Field, Verdict, categories, split, text_of
from selfalign.protocols import Context
from selfalign.text import TENTH
from selfalign.types import Example, FilterResult, FloatArray, cosines

_CELLS = 1 << 22  # similarities put in order at once: 64 MiB with their places


@dataclass(frozen=True)
class CategoryAgreement:
    """Drops an example whose prompt or response looks like the seeds' of another category (our own addition).

    A candidate's category is the one its proposer aimed at; the text's is the majority among the nearest seeds by cosine. Where
    seeds ask for two kinds of answer (a refusal here, real help there), an answer of the wrong kind teaches the opposite of
    what the seeds mean, and so does a prompt of the wrong kind ("Can you help with bikes?" among what a bicycle shop declines):
    its answer is shown examples of the aim. Does nothing where the seeds carry fewer than two categories, and keeps examples
    without one.
    """

    field: Field = "response"
    """Which text of an example is looked at."""

    neighbours: int = 5
    """Odd keeps two categories from tying; a tie goes to the tied category of the nearest."""
    unanimous: bool = False
    """Drop only where all the neighbours are of one other category. Embeddings see the topic more than the kind of answer: by
    majority a third of a bundled-domain round was dropped, all of it wrongly when read by eye."""
    learn: bool = True
    """Does nothing where the rule, with each seed judged by the others, would drop more than a tenth of the seeds (and two)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `category_mismatch`, of a prompt `prompt_of_other_category`; evidence: both categories and the nearest seed."""
        seeds = [seed for seed in context.pool.seeds if seed.category]
        if not examples or len(categories(seeds)) < 2:
            return FilterResult(tuple(examples), ())
        known = context.encode([text_of(seed, self.field) for seed in seeds])
        if self.learn:
            size = Counter(seed.category for seed in seeds)  # a seed is not among its own neighbours: fewer can be of its kind
            pairs = zip(seeds, self._nearest(known, known, seeds, among=True), strict=True)
            wrong = [self._judge(seed, near[: max(2 * size[seed.category] - 3, 1)]) for seed, near in pairs]
            if sum(map(bool, wrong)) > max(1, TENTH * len(seeds)):
                return FilterResult(tuple(examples), ())
        found = self._nearest(context.encode([text_of(example, self.field) for example in examples]), known, seeds)
        return split(examples, lambda example: self._judge(example, next(found)))

    def _nearest(
        self, rows: FloatArray, known: FloatArray, seeds: Sequence[Example], among: bool = False
    ) -> Iterator[list[Example]]:
        """Of each row the nearest seeds; `among`: but itself, where the rows are the seeds'."""
        step = _CELLS // len(seeds) + 1
        for start in range(0, len(rows), step):
            similarity = cosines(rows[start : start + step], known)
            if among:
                similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
            order = np.argsort(-similarity, axis=1, kind="stable")[:, : self.neighbours]
            yield from ([seeds[column] for column in row] for row in order)

    def _judge(self, example: Example, nearest: Sequence[Example]) -> Verdict:
        votes = Counter(seed.category for seed in nearest)  # most_common keeps first-seen order among equals: the nearest wins
        (category, count), *_ = votes.most_common(1)
        if not example.category or category == example.category or (self.unanimous and count < len(nearest)):
            return None
        seed = nearest[0]
        seen = f"aimed at {example.category}, but {count} of the {len(nearest)} nearest seed {self.field}s are {category}"
        rule = "category_mismatch" if self.field == "response" else "prompt_of_other_category"
        return rule, f"{seen}; nearest is {seed.id} ({seed.category}): {text_of(seed, self.field)}"

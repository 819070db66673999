"""Answers of another kind than the one that was aimed at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.filters._shared import categories, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class CategoryAgreement:
    """Drops an example whose response looks like the seeds' responses of another category (our own addition).

    A candidate's category is the one its proposer aimed at; the response's is the majority among its nearest seed responses
    by cosine. Where seeds ask for two kinds of answer (a refusal here, real help there), an answer of the wrong kind teaches
    the opposite of what the seeds mean. Does nothing where the seeds carry fewer than two categories, and keeps examples
    without one.
    """

    neighbours: int = 5
    """Odd keeps two categories from tying; a tie goes to the tied category of the nearest."""
    unanimous: bool = False
    """Drop only where all the neighbours are of one other category. Embeddings see the topic more than the kind of answer: by
    majority a third of a bundled-domain round was dropped, all of it wrongly when read by eye."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `category_mismatch`; evidence: both categories and the nearest seed response."""
        seeds = [seed for seed in context.pool.seeds if seed.category]
        if not examples or len(categories(seeds)) < 2:
            return FilterResult(tuple(examples), ())
        known = context.encode([seed.response for seed in seeds])
        similarity = context.encode([example.response for example in examples]) @ known.T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, : self.neighbours]
        found = iter([[seeds[column] for column in row] for row in order])
        return split(examples, lambda example: _verdict(example, next(found), self.unanimous))


def _verdict(example: Example, nearest: Sequence[Example], unanimous: bool) -> tuple[str, str] | None:
    votes = Counter(seed.category for seed in nearest)  # most_common keeps first-seen order among equals: the nearest wins
    (category, count), *_ = votes.most_common(1)
    if not example.category or category == example.category or (unanimous and count < len(nearest)):
        return None
    seed = nearest[0]
    seen = f"aimed at {example.category}, but {count} of the {len(nearest)} nearest seed responses are {category}"
    return "category_mismatch", f"{seen}; nearest is {seed.id} ({seed.category}): {seed.response}"

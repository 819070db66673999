"""Nested subsets of the seeds: what a study draws to see how many examples are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfalign.loop.preflight import conversations
from selfalign.types import Example, derive_seed


def nested(seeds: Sequence[Example], size: int, seed: int) -> tuple[Example, ...]:
    """`size` of the seeds, in their order; each smaller subset of the same `seed` lies inside the larger ones.

    All are beginnings of one order, in which the members of a category, shuffled, stand at even distances (the jth of m at
    (j + 1/2) / m): in every subset a category has its share to within one or two. The turns of a conversation follow each other,
    so that at most one is cut.

    `seed` is the study's first random seed; it alone decides what is drawn, so that all repeats and methods see the same.
    """
    placed: list[tuple[float, int, list[Example]]] = []
    for category, members in conversations(seeds).items():
        order = np.random.default_rng(derive_seed(seed, "subset", category)).permutation(len(members))
        tie = derive_seed(seed, "subset", category)  # between categories of equal size
        placed += [((place + 0.5) / len(members), tie, members[at]) for place, at in enumerate(order)]
    ordered = [example for *_, rows in sorted(placed, key=lambda each: each[:2]) for example in rows]
    chosen = {example.id for example in ordered[:size]}
    return tuple(example for example in seeds if example.id in chosen)

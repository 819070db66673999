"""Answers copied from the examples: what somebody reaches who reads no prompt, or only looks for a similar one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfalign.protocols import Context, Retriever, SeedUse, declared
from selfalign.types import Example


@dataclass(frozen=True)
class Copied:
    """Of a recipe's `eval_retriever`: each held-out prompt is answered with the response of the example chosen for it, word for
    word, and no model is asked (our own choice, after the nearest-neighbour and majority baselines of classification).

    Likelihoods are still the model's, shown that one example.
    """

    chosen: Retriever
    """What chooses it; the first one counts."""
    copies: ClassVar[bool] = True

    def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[tuple[tuple[Example, float | None], ...]]:
        return [found[:1] for found in self.chosen.retrieve(context, drafts)]

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`."""
        return declared(self.chosen, SeedUse).shown(seeds, categories)

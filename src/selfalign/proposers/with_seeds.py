"""New prompts, and the seeds' own once more: for a teacher that corrects the model's own answers to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from selfalign.errors import UserError
from selfalign.proposers._drafts import once_more
from selfalign.proposers.few_shot import FewShot
from selfalign.protocols import Context
from selfalign.types import Example, derive_seed


@dataclass(frozen=True)
class WithSeeds:
    """New prompts first; in the slots behind them seeds' prompts as they stand, none once more before all were asked as often.

    Each draft of the second kind names its seed as the one demonstration of its prompt.
    """

    new: FewShot = field(default_factory=FewShot)
    share: float = 0.5
    """Of a round's slots, how many seeds' prompts take; where there are more seeds, some are drawn anew each round."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise UserError(f"proposer WithSeeds: share = {self.share} is out of range: between 0 and 1")

    def propose(self, context: Context, count: int) -> list[Example]:
        """`count` drafts in slot order; for those of the seeds the model is not asked."""
        seeds = context.pool.seeds
        random = np.random.default_rng(derive_seed(context.seed, context.round, "propose-seeds"))
        whole, rest = divmod(self._own(seeds, count), max(len(seeds), 1))
        drawn = sorted([*range(len(seeds))] * whole + random.permutation(len(seeds))[:rest].tolist())
        first = count - len(drawn)
        return [
            *(self.new.propose(context, first) if first else ()),
            *(once_more(context, slot, seeds[place]) for slot, place in enumerate(drawn, first)),
        ]

    def aims(self, seeds: Sequence[Example], count: int) -> list[str]:
        """As `SeedUse.aims`."""
        own = [seeds[place % len(seeds)].category for place in range(self._own(seeds, count))]
        return [*self.new.aims(seeds, count - len(own)), *own]

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`, of a new prompt."""
        return self.new.shown(seeds, categories)

    def _own(self, seeds: Sequence[Example], count: int) -> int:
        return round(self.share * count) if seeds else 0

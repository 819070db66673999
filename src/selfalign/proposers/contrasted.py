"""New prompts, and each of them once more for an answer that another category's examples mislead."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from selfalign.errors import UserError
from selfalign.proposers._drafts import once_more
from selfalign.proposers.few_shot import FewShot
from selfalign.protocols import Context
from selfalign.types import PREFERRED, Example, Sampling, derive_seed


@dataclass(frozen=True)
class Contrasted:
    """`FewShot` prompts whose kept answers, and those of the seeds, are each preferred to an answer of another category's kind.

    That other answer is the model's own to the same prompt: its draft has the other category, so that a retriever that goes by
    category shows it examples of that one, and the filters ask that the answer be of its kind. Our own; RLCD (arXiv 2307.12950)
    and PT-ALIGN (2502.11075) make such pairs from instructions that contradict each other, where this has examples alone.
    """

    demonstrations: int = 5
    """As in `FewShot`."""
    aim: str = "balanced"
    """As in `FewShot`."""
    sampling: Sampling = field(default_factory=Sampling)
    preferences: ClassVar[bool] = True

    def propose(self, context: Context, count: int) -> list[Example]:
        """As `FewShot.propose`."""
        return self._asking.propose(context, count)

    def oppose(self, context: Context, kept: Sequence[Example], first_slot: int) -> list[Example]:
        """A draft against each seed and each pair kept, slots from `first_slot` on: its prompt, another category, drawn at random
        where there are several, and in its metadata the id of what is preferred."""
        random = np.random.default_rng(derive_seed(context.seed, context.round, "oppose"))
        known = sorted({seed.category for seed in context.pool.seeds if seed.category})
        preferred = [one for one in (*context.pool.seeds, *kept) if one.category]
        drafts = []
        for slot, one in enumerate(preferred, first_slot):
            others = [kind for kind in known if kind != one.category]
            other = others[int(random.integers(len(others)))]
            drafts.append(replace(once_more(context, slot, one), category=other, metadata={PREFERRED: one.id}))
        return drafts

    def check_examples(self, seeds: Sequence[Example], held_out: Sequence[Example]) -> None:
        """As `Preflight.check_examples`: seeds of two categories at least."""
        if len(known := {seed.category for seed in seeds if seed.category}) < 2:
            there = f"only {known.pop()!r}" if known else "none"
            raise UserError(f"contrast sets one category's examples against another's, the seeds have {there}: name two or more")

    def aims(self, seeds: Sequence[Example], count: int) -> list[str]:
        """As `SeedUse.aims`."""
        return self._asking.aims(seeds, count)

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`."""
        return self._asking.shown(seeds, categories)

    @property
    def _asking(self) -> FewShot:
        return FewShot(self.demonstrations, aim=self.aim, sampling=self.sampling)

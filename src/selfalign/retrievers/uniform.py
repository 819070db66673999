"""Demonstrations drawn at random: the baseline of exact neighbours."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

import numpy as np

from selfalign.protocols import Context
from selfalign.types import Example, derive_seed


@dataclass(frozen=True)
class Uniform:
    """Draws uniformly without replacement, seeds first, then from each generated round (ISARA's ICL-Random and its variant 4)."""

    demonstrations: int = 8
    """C."""
    generated: int = 1
    """How many of them come from each generated round; the rest are seeds."""

    def __post_init__(self) -> None:
        for name in ("demonstrations", "generated"):
            if getattr(self, name) < 0:
                raise ValueError(f"Uniform: {name} = {getattr(self, name)} is out of range: at least 0")

    def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[tuple[tuple[Example, float | None], ...]]:
        """For each draft its demonstrations in the order drawn, without a similarity; a draft never gets itself."""
        parts = [
            (part, {example.id for example in part}, count)
            for part, count in context.pool.shares(self.demonstrations, self.generated)
        ]
        return [self._draw(context, draft, parts) for draft in drafts]

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`."""
        return self.demonstrations, min(self.demonstrations, len(seeds))

    def _draw(
        self, context: Context, draft: Example, parts: Sequence[tuple[Sequence[Example], Set[str], int]]
    ) -> tuple[tuple[Example, float | None], ...]:
        random = np.random.default_rng(derive_seed(context.seed, context.round, "retrieve", draft.slot))
        drawn: list[tuple[Example, float | None]] = []
        for part, ids, count in parts:
            others = [example for example in part if example.id != draft.id] if draft.id in ids else part
            chosen = random.choice(len(others), size=min(count, len(others)), replace=False)
            drawn += [(others[position], None) for position in chosen]
        return tuple(drawn)

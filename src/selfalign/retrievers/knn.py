"""The most similar examples as demonstrations: exact nearest neighbours over the prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selfalign.protocols import Context
from selfalign.types import Example, FloatArray, cosines

_CELLS = 1 << 24  # similarities held at once: 128 MiB as float64


@dataclass(frozen=True)
class Knn:
    """ISARA's answer step: of each part of the pool the prompts nearest to the draft's, exactly, by cosine.

    Seeds give C minus what the generated rounds give. Shown part by part, as the paper's code has it: the seeds, nearest first,
    then the nearest of each generated round, oldest round first. `nearest="last"` turns the whole list round. Where the window is
    too small the last ones shown go.
    """

    demonstrations: int = 8
    """C. The paper's 8; 6 for long examples."""
    generated: int = 1
    """How many of them come from each generated round; the rest are seeds."""
    nearest: Literal["first", "last"] = "first"
    """Where the nearest example stands: first in the prompt, or last, right before what is asked."""
    by_category: bool = False
    """Show only examples of the draft's category, for drafts that have one (our own addition)."""

    def __post_init__(self) -> None:
        for name in ("demonstrations", "generated"):
            if getattr(self, name) < 0:
                raise ValueError(f"Knn: {name} = {getattr(self, name)} is out of range: at least 0")

    def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[tuple[tuple[Example, float | None], ...]]:
        """For each draft its demonstrations in the order shown, each with its cosine; equals in pool order, never itself nor
        the example whose prompt it is, whose answer would give its own away."""
        if not drafts:
            return []
        queries = context.encode([draft.prompt for draft in drafts])
        found: list[list[tuple[Example, float]]] = [[] for _ in drafts]
        for part, count in context.pool.shares(self.demonstrations, self.generated):
            for neighbours, new in zip(found, self._neighbours(drafts, queries, part, context, count), strict=True):
                neighbours += new
        return [tuple(neighbours if self.nearest == "first" else reversed(neighbours)) for neighbours in found]

    def shown(self, seeds: Sequence[Example], categories: Collection[str]) -> tuple[int, int]:
        """As `SeedUse.shown`."""
        limited = [kind for kind in categories if self.by_category and kind]
        least = min((sum(seed.category == kind for seed in seeds) for kind in limited), default=len(seeds))
        return self.demonstrations, min(self.demonstrations, least)

    def _neighbours(
        self, drafts: Sequence[Example], queries: FloatArray, part: Sequence[Example], context: Context, count: int
    ) -> list[list[tuple[Example, float]]]:
        known = context.encode([example.prompt for example in part])
        places = {example.id: column for column, example in enumerate(part)}
        kinds = np.array([example.category for example in part])
        others = {kind: kinds != kind for kind in {draft.category for draft in drafts} if self.by_category and kind}
        step = max(1, _CELLS // len(part))
        result: list[list[tuple[Example, float]]] = []
        for start in range(0, len(drafts), step):
            similarity = cosines(queries[start : start + step], known)
            for row, draft in zip(similarity, drafts[start : start + step], strict=True):
                asked = {shown.id for shown in draft.prompt_demonstrations}
                for own in {places[id] for id in (draft.id, *asked) if id in places}:
                    if part[own].id == draft.id or part[own].full_prompt == draft.full_prompt:
                        row[own] = -np.inf
                if draft.category in others:
                    row[others[draft.category]] = -np.inf
                result.append([(part[column], float(row[column])) for column in _largest(row, count)])
        return result


def _largest(row: NDArray[np.float64], count: int) -> list[int]:
    """Columns of the `count` largest finite values, largest first, equals by column."""
    limit = np.partition(row, len(row) - count)[len(row) - count]
    columns = np.flatnonzero((row >= limit) & np.isfinite(row))
    return [int(column) for column in columns[np.argsort(-row[columns], kind="stable")][:count]]

"""One kind of example crowding out the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, categories, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Balance:
    """Keeps every category's share of the kept at most `tolerance` times its share among the seeds (our own addition).

    Filters are not neutral: refusals resemble each other and fall to the novelty rules more often, so the kept set drifts
    away from what the seeds ask for, and the next model with it. The surplus with the latest slots goes. Limits are rounded
    down to whole examples, but never below the exact share rounded up. Does nothing where the seeds carry fewer than two
    categories; examples without one are kept. Stand it last.
    """

    tolerance: float = 1.25
    """At least 1."""

    def __post_init__(self) -> None:
        if not self.tolerance >= 1.0:
            raise ValueError(f"Balance: tolerance = {self.tolerance} is out of range: at least 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `balance`; evidence: the category's count and limit."""
        seeds = [seed.category for seed in context.pool.seeds if seed.category]
        if len(categories(context.pool.seeds)) < 2:
            return FilterResult(tuple(examples), ())
        counts = Counter(example.category for example in examples if example.category)
        limits = _limits(counts, {name: number / len(seeds) for name, number in Counter(seeds).items()}, self.tolerance)
        taken: Counter[str] = Counter()

        def judge(example: Example) -> Verdict:
            name = example.category
            if not name or taken[name] < limits[name]:
                taken[name] += 1
                return None
            limit = f"at most {limits[name]} beside the others (share among the seeds × {self.tolerance})"
            return "balance", f"{counts[name]} of category {name}, {limit}"

        return split(examples, judge)


def _limits(counts: Counter[str], shares: dict[str, float], tolerance: float) -> dict[str, int]:
    """The most of each category that respects the shares: caps lower the total, which lowers the caps, until they rest."""
    limits, total = dict(counts), -1
    while sum(limits.values()) != total:
        total = sum(limits.values())
        fair = {name: shares.get(name, 0.0) * total for name in limits}
        # The small number keeps 0.6 · 25 from counting as 14.999….
        limits = {
            name: min(n, max(math.floor(tolerance * fair[name] + 1e-9), math.ceil(fair[name] - 1e-9)))
            for name, n in limits.items()
        }
    return limits

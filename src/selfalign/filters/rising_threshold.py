"""A bound on a score that rises from round to round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult, is_score_name, unusable


@dataclass(frozen=True)
class RisingThreshold:
    """Keeps what scores above `first + step·(round - 1)` (the Improve step of ReST, arXiv 2308.08998).

    Drops what has no score too, and what speaks to the judge; see `scores.unusable` for the rules.
    """

    name: str = "judge_quality"
    """Of the score; higher is better."""
    first: float = 5.0
    step: float = 1.0
    last: float | None = None
    """The bound rises no further than this."""

    def __post_init__(self) -> None:
        if not is_score_name(self.name):
            raise ValueError(f"RisingThreshold: name = {self.name!r}: lower-case letters, digits and underscores")
        if not math.isfinite(self.first) or not (math.isfinite(self.step) and self.step >= 0.0):
            raise ValueError(f"RisingThreshold: first = {self.first} and step = {self.step}: finite numbers, step at least 0")

    def bound(self, round: int) -> float:
        return min(self.first + self.step * (round - 1), math.inf if self.last is None else self.last)

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `low_<name>`; evidence: the score, the bound and the round."""
        bound = self.bound(context.round)

        def judge(example: Example) -> Verdict:
            if why := unusable(example, self.name):
                return why
            value = example.scores[self.name]
            if value > bound:
                return None
            return f"low_{self.name}", f"{self.name} {value:.4g}, above {bound:.4g} wanted in round {context.round}"

        return split(examples, judge)

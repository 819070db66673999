"""Keeping examples by the scores that scorers gave them. Ties go to the earlier slot, so that the same input gives the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult, derive_seed, is_score_name, unusable


@dataclass(frozen=True)
class Threshold:
    """Keeps what scores above or below a bound, the bound itself excluded (I-SHEEP, 2408.08072: both judges' scores above 8).

    Drops what has no score too, and what speaks to the judge; see `types.unusable` for the rules.
    """

    name: str = "judge_quality"
    """Of the score."""
    above: float | None = 8.0
    """null: no bound on this side."""
    below: float | None = None
    """As perplexity wants it: `Threshold("perplexity", above=None, below=50)`."""

    def __post_init__(self) -> None:
        _check_names("Threshold", self.name)
        if (self.above is None) == (self.below is None) or not math.isfinite(self.above if self.below is None else self.below):  # type: ignore[arg-type]
            raise ValueError(f"Threshold: above = {self.above} and below = {self.below}: exactly one of them, a finite number")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `low_<name>` or `high_<name>`; evidence: the score and the bound."""

        def judge(example: Example) -> Verdict:
            if why := unusable(example, self.name):
                return why
            value = example.scores[self.name]
            if self.above is not None and not value > self.above:
                return f"low_{self.name}", f"{self.name} {value:.4g}, above {self.above:g} wanted"
            if self.below is not None and not value < self.below:
                return f"high_{self.name}", f"{self.name} {value:.4g}, below {self.below:g} wanted"
            return None

        return split(examples, judge)


@dataclass(frozen=True)
class Percentile:
    """Keeps the best share of what has a usable score, whatever the numbers are.

    Our own choice against absolute bounds, which keep nothing or everything where a judge uses part of its scale: I-SHEEP's
    7B run kept 2 to 3 % above 8.
    """

    name: str = "judge_quality"
    """Of the score."""
    keep: float = 0.5
    """Share in (0, 1], of the examples with a usable score; rounded up to whole examples."""
    highest: bool = True
    """False keeps the lowest: perplexity."""

    def __post_init__(self) -> None:
        _check_names("Percentile", self.name)
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"Percentile: keep = {self.keep} is out of range: above 0, at most 1")

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `low_<name>` or `high_<name>`; evidence: the score, its rank and how many are kept."""
        usable = [example for example in examples if not unusable(example, self.name)]
        order = sorted(usable, key=lambda e: (-e.scores[self.name] if self.highest else e.scores[self.name], e.slot, e.id))
        rank = {example.id: place for place, example in enumerate(order, 1)}
        # Rounded first: 0.1 · 30 is a little more than 3 in binary.
        room = math.ceil(round(self.keep * len(order), 9))
        side = "low" if self.highest else "high"

        def judge(example: Example) -> Verdict:
            if why := unusable(example, self.name):
                return why
            place = rank[example.id]
            if place <= room:
                return None
            value = example.scores[self.name]
            return f"{side}_{self.name}", f"{self.name} {value:.4g} is number {place} of {len(order)}; the best {room} are kept"

        return split(examples, judge)


@dataclass(frozen=True)
class OnePerCluster:
    """Keeps one example of each cluster that `Density` found: the one with the lowest score `by`, or one drawn at random.

    I-SHEEP's filters `density` (`by=""`) and `density+ppl` (`by="perplexity"`).
    """

    cluster: str = "density_cluster"
    """The score that has the number of the cluster."""
    by: str = "perplexity"
    """The score whose lowest value is kept; "" draws with the run's random seed."""
    highest: bool = False
    """Keep the highest in place of the lowest: a judge's score."""

    def __post_init__(self) -> None:
        _check_names("OnePerCluster", self.cluster, *([self.by] if self.by else []))

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `same_cluster`; evidence: the cluster and the example that stands for it."""
        chosen: dict[float, Example] = {}
        names = [self.cluster, *([self.by] if self.by else [])]
        usable = [example for example in examples if not any(unusable(example, name) for name in names)]
        for example in sorted(usable, key=lambda example: (self._rank(context, example), example.slot, example.id)):
            chosen.setdefault(example.scores[self.cluster], example)

        def judge(example: Example) -> Verdict:
            for name in names:
                if why := unusable(example, name):
                    return why
            best = chosen[example.scores[self.cluster]]
            if best.id == example.id:
                return None
            than = f" ({self.by} {best.scores[self.by]:.4g}, this one {example.scores[self.by]:.4g})" if self.by else ""
            return "same_cluster", f"{self.cluster} {example.scores[self.cluster]:g} is represented by {best.id}{than}"

        return split(examples, judge)

    def _rank(self, context: Context, example: Example) -> float:
        if self.by:
            return -example.scores[self.by] if self.highest else example.scores[self.by]
        draw = np.random.default_rng(derive_seed(context.seed, context.round, "cluster", example.slot, example.id))
        return float(draw.random())


def _check_names(part: str, *names: str) -> None:
    for name in names:
        if not is_score_name(name):
            raise ValueError(f"{part}: {name!r} is no name of a score: lower-case letters, digits and underscores")


@dataclass(frozen=True)
class RisingThreshold:
    """Keeps what scores above `first + step·(round - 1)` (the Improve step of ReST, arXiv 2308.08998).

    Drops what has no score too, and what speaks to the judge; see `types.unusable` for the rules.
    """

    name: str = "judge_quality"
    """Of the score; higher is better."""
    first: float = 5.0
    """The bound of round 1."""
    step: float = 1.0
    """What the bound rises by in each round."""
    last: float | None = None
    """The bound rises no further than this."""

    def __post_init__(self) -> None:
        _check_names("RisingThreshold", self.name)
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

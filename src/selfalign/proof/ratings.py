"""What people say of pairs of answers: which model they prefer, how far they agree, and what the place of an answer does.

Prompts are the unit: a prompt that several people rate is one observation, the mean of what they say, for their ratings of it are
not independent. The intervals speak of other prompts rated by the same people; what other people would say is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from selfalign.proof.stats import Interval, quantile, wilson
from selfalign.text import finite

Choice = Literal["A", "B", "tie", "bad"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
"""bad: neither answer will do. It counts as a tie, and its share is given by itself: a preference among answers of which most are
bad is worth little (our own choice, as Chatbot Arena asks it)."""
_DRAWS = 2000


class Rating(NamedTuple):
    """What one person says of one pair."""

    pair: str
    category: str
    choice: Choice
    new: str
    """The letter that the new model's answer stood under."""

    @property
    def value(self) -> float:
        """1 for the new model, 0 for the base, 0.5 for neither."""
        return float(self.choice == self.new) if self.choice in ("A", "B") else 0.5


def conclude(
    raters: Mapping[str, Sequence[Rating]],
    identical: Sequence[str] = (),
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """All that follows from ratings, as plain data; intervals as {"value", "low", "high", "n"}, n counting prompts.

    Args:
        raters: each person's ratings, of each pair at most one.
        identical: the category of each prompt that both models answer alike: a tie for everybody, and no part of the agreement.
        metrics: by name and pair, what the new model's answer reaches minus what the base's does, higher being better.
    """
    every = [each for ratings in raters.values() for each in ratings]
    categories = sorted({each.category for each in every} | set(identical))
    decided = [each for each in every if each.choice in ("A", "B")]
    return {
        "preference": _preference(every, identical),
        "categories": {
            name: _preference([each for each in every if each.category == name], [each for each in identical if each == name])
            for name in categories
        },
        "both_bad": _figure([*_by_pair((each.pair, each.choice == "bad") for each in every).values()]),
        "chose_a": _figure([*_by_pair((each.pair, each.choice == "A") for each in decided).values()]),
        "agreement": agreement(_units(raters)),
        "raters": {name: _of_rater(ratings, identical) for name, ratings in raters.items()},
        "metrics": _with_metrics(every, metrics or {}),
    }


def share_interval(values: Sequence[float]) -> Interval:
    """The mean of numbers in 0 … 1, one a prompt, with its 95 % interval: Wilson's, for as many prompts as the spread is worth.

    Wins alone are a share, and Wilson's interval is theirs. Ties, and means over raters, spread less: with mean m and sample
    variance s² the n prompts are worth n·m(1 - m)/s² (between n - 1 and n²), and the quantile is Student's t with n - 1 degrees,
    as for shares of complex surveys (Franco, Little, Louis, Slud 2019). One prompt says nothing of spread: 0 … 1.

    Our own choice by simulation (one to three raters, 10 to 100 prompts, preferences from 0.15 to 0.97): covers 0.92 to 1.00, and
    is mostly the narrower one; a t interval cut at 0 and 1 covers 0.65 to 1.00.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    n, mean = len(data), float(data.mean())
    if n == 1:
        return Interval(mean, 0.0, 1.0)
    variance, bound = float(data.var(ddof=1)), mean * (1 - mean)
    worth = float(n) if bound <= 0.0 else bound * n / max(variance, bound / n)
    square = quantile(0.975, n - 1) ** 2
    middle, width = (mean + square / (2 * worth)), math.sqrt(square * (bound / worth + square / (4 * worth**2)))
    low, high = ((middle + side) / (1 + square / worth) for side in (-width, width))
    return Interval(mean, min(max(low, 0.0), mean), max(min(high, 1.0), mean))


def agreement(units: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Krippendorff's nominal alpha of what is said of each pair, with a 95 % interval, and the share of two ratings alike.

    Alpha, for it holds for any number of people of whom each rates some of the pairs (Krippendorff 2011, Computing Krippendorff's
    alpha-reliability), unlike Cohen's kappa. The values must be the letters as people chose them blind, not the models behind
    them: letters are drawn, so that chance agreement is that of people who do not read; a preference that all see would otherwise
    count as chance. The interval is the bootstrap's percentiles over pairs (Zapf and others 2016), with the same draws each time.
    It covers 0.89 to 0.99 on 20 pairs and 0.91 to 0.95 on 40 (simulated, two and three people). Where nobody disagrees it says
    nothing, and the lower end is that of Wilson's share of pairs without disagreement.

    Pairs rated once say nothing and are left out. Without two pairs rated twice, or where only one letter is ever used, alpha is
    not defined: None.
    """
    rated = [unit for unit in units if len(unit) > 1]
    found: dict[str, Any] = {"alpha": None, "low": None, "high": None, "same": None, "n": len(rated)}
    if not rated:
        return found
    names = sorted({value for unit in rated for value in unit})
    counts = np.array([[unit.count(name) for name in names] for unit in rated], dtype=np.float64)
    observed, chance = _disagreements(counts, np.ones((1, len(rated))))
    found["same"] = 1.0 - float(observed[0])
    if len(rated) < 2 or chance[0] == 0.0:
        return found
    if observed[0] == 0.0:
        low, high = 1.0 - (1.0 - wilson(len(rated), len(rated)).low) / float(chance[0]), 1.0
    else:
        draws = np.random.default_rng(0).multinomial(len(rated), np.full(len(rated), 1 / len(rated)), _DRAWS)
        seen, expected = _disagreements(counts, draws.astype(np.float64))
        known = expected > 0.0
        low, high = (float(each) for each in np.quantile(1.0 - seen[known] / expected[known], (0.025, 0.975)))
    return {**found, "alpha": 1.0 - float(observed[0] / chance[0]), "low": low, "high": high}


def _disagreements(counts: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Observed and expected disagreement, of each row of weights; counts have a row a pair and a column a value."""
    sizes = counts.sum(axis=1)
    within = (sizes**2 - (counts**2).sum(axis=1)) / (sizes - 1)
    total, by_value = weights @ sizes, weights @ counts
    return weights @ within / total, (total**2 - (by_value**2).sum(axis=1)) / (total * (total - 1))


def _units(raters: Mapping[str, Sequence[Rating]]) -> list[list[str]]:
    """What is said of each pair; "bad" is a tie here as it is in the preference."""
    found: dict[str, list[str]] = {}
    for each in (one for ratings in raters.values() for one in ratings):
        found.setdefault(each.pair, []).append(each.choice if each.choice in ("A", "B") else "tie")
    return list(found.values())


def _preference(ratings: Iterable[Rating], identical: Sequence[str]) -> dict[str, Any] | None:
    return _figure([*_by_pair((each.pair, each.value) for each in ratings).values(), *(0.5 for _ in identical)])


def _of_rater(ratings: Sequence[Rating], identical: Sequence[str]) -> dict[str, Any]:
    counts: dict[str, int] = {choice: sum(each.choice == choice for each in ratings) for choice in CHOICES}
    chosen = [float(each.choice == "A") for each in ratings if each.choice in ("A", "B")]
    return {"preference": _preference(ratings, identical), "rated": len(ratings), **counts, "chose_a": _figure(chosen)}


def _by_pair(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean over people, pair by pair."""
    found: dict[str, list[float]] = {}
    for pair, value in values:
        found.setdefault(pair, []).append(float(value))
    return {pair: sum(each) / len(each) for pair, each in found.items()}


def _figure(values: Sequence[float]) -> dict[str, Any] | None:
    return _plain(share_interval(values), len(values)) if values else None


def _plain(interval: Interval, n: int) -> dict[str, Any]:
    return {name: finite(value) for name, value in interval._asdict().items()} | {"n": n}


def _with_metrics(every: Sequence[Rating], metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Of the prompts on which both people (by their mean) and a metric prefer a side, the share on which it is the same one."""
    people = {pair: mean - 0.5 for pair, mean in _by_pair((each.pair, each.value) for each in every).items()}
    found: dict[str, Any] = {}
    for name, differences in metrics.items():
        both = [people[pair] * value > 0 for pair, value in differences.items() if people.get(pair) and value]
        if both:
            found[name] = _plain(wilson(sum(both), len(both)), len(both))
    return found

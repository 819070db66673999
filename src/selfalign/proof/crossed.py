"""The statistics of a study: a metric over prompts AND repeats (random seeds), and its difference between two arms.

Every repeat answers the same prompts, so both are crossed random effects: neither R·P independent outcomes (the repeats
share their prompts) nor R of them (the prompts are a sample too). A repeat's metric value is the sum over strata of the
stratum's mean, as in `types.Metric`. In each stratum, a two-way analysis of variance without replication gives the mean
squares of prompts, MS_P, and of the residual, MS_E (Searle, Casella, McCulloch 1992, Variance Components, chapter 4):

    Var(metric) = s²_m / R + Σ_s max(0, MS_P,s − MS_E,s) / (R·P_s),        s²_m: variance of the R metric values

Two departures from the textbook, both our own choice by simulation (normal data, R = 2 … 10, P = 20 … 400, one and two
strata, ratios of the effects from none to dominant; nominal 95 %):

- The variance is at least Σ_s max(MS_P,s, MS_E,s) / (R·P_s), its estimate where repeats have no effect of their own.
  s²_m of three repeats is often far too small; rounded rates make it exactly 0 at times, with a point for an interval.
- Satterthwaite's degrees of freedom weigh each term by its squared share of the variance. With R − 1 = 2 that misleads: a
  chance-small s²_m raises them just where it narrows the interval (coverage down to 0.919 at R = 3, 0.87 at R = 2).
  Here the share of s²_m enters unsquared: 1/df = (s²_m/R)/V/(R − 1) + Σ_s share_s²/(P_s − 1).

With both, the lowest coverage is 0.940 at R = 3 and 0.948 at R = 5, with intervals on average 8 % and 4 % wider; up to 0.995
where neither prompts nor repeats differ. Two repeats (one degree of freedom) stay short, 0.90: take three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selfalign.proof.stats import EXACT, LEAST, Difference, quantile, sign_flips, two_sided, wilson
from selfalign.proof.variance import Table, detectable, squares, variance
from selfalign.types import Outcome

_Repeats = Sequence[Sequence[Outcome]]


class Estimate(NamedTuple):
    """A metric with its interval over prompts and repeats."""

    value: float
    low: float
    high: float
    standard_error: float
    degrees: float
    """Effective degrees of freedom of the t interval, 1 or more."""
    repeats: int
    prompts: int


class Comparison(NamedTuple):
    """A difference, first minus second, with its interval and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float
    standard_error: float
    minimum_detectable: float
    """The true difference that a study like this one finds with power 80 % (see `variance.detectable`); infinite below six
    prompts, and where no prompt separates the two: how differences spread is then not known.

    For normal differences the exact test finds it with 63 % on six prompts, and with 75 % or more from seven on (simulated).
    """
    repeats: int
    prompts: int
    test: str
    """crossed t | exact McNemar | exact sign flips"""


def crossed_mean(repeats: _Repeats, confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean over repeats of a metric, with its t interval over prompts and repeats (see the module).

    The interval is cut at `bounds`, between which the metric lies whatever the data (0 and 1 of a share; a t interval knows of
    none). What is cut away cannot be the truth, so the shorter interval covers it as often as the whole one. Standard error and
    degrees of freedom are those of the whole one.

    With one repeat, or with repeats all alike (a deterministic arm), the interval is over prompts only: Var = Σ_s var_s / P_s.
    What another random seed would have given is then not in it. Of a share (`bounds` 0 and 1, outcomes 0 or 1, one stratum) it
    is Wilson's: at true shares of 2 to 5 % of 40 to 430 prompts t intervals cover 55 to 94 %, Wilson's 95 to 97 % (by counting).
    A share that is made of two strata (the areas of `proof.decision`) has its t interval on the scale of log-odds; at 0 or 1,
    where that has no end, Wilson's of as many pairs of prompts as share none.
    A stratum of one prompt says nothing about spread and gives an infinite interval, never NaN.

    Raises:
        ValueError: no repeats or no outcomes, prompts (id and stratum) not the same in all repeats or twice in one, a value
            that is not finite, confidence outside 0 … 1.
    """
    tables = _tables({f"repeat {row}": repeat for row, repeat in enumerate(repeats)})
    found = _estimate(tables, len(repeats), confidence)
    if bounds == (0.0, 1.0) and len(tables) == 1 and _alike(tables) and np.isin(tables[0], bounds).all():
        _, low, high = wilson(int(tables[0][0].sum()), found.prompts, confidence)
        return found._replace(low=low, high=high)
    if bounds == (0.0, 1.0) and len(tables) > 1:
        low, high = _by_log_odds(found, tables, confidence)
        return found._replace(low=low, high=high)
    least, most = min(bounds[0], found.value), max(bounds[1], found.value)  # rounding may put a value past its bound
    return found._replace(low=max(found.low, least), high=min(found.high, most))


def compare(
    a: _Repeats, b: _Repeats, confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf), family: int = 1
) -> Comparison:
    """The metric of `a` minus that of `b`, paired by prompt and by repeat: `crossed_mean` of the differences, p from its t.

    A side with a single repeat stands against each repeat of the other: right for a deterministic arm only (greedy answers
    of a base model), which the caller vouches for.

    Up to EXACT prompts in one stratum, with one repeat (or repeats all alike), interval and p are those of `stats.sign_flips`:
    two prompts on which the differences happen to be nearly equal prove nothing. With more strata or repeats the signs of what
    each prompt adds to the difference are flipped, and of that test and the crossed t the one that says less counts, in p and
    at each end of the interval (our own choice: either may be far too sure where prompts are few).

    With more prompts of binary outcomes, in one stratum with one repeat, the exact McNemar test (a binomial test of the
    discordant pairs) and the t test stand side by side in the same way: the larger p counts, and the interval reaches as far as
    the further of the two, so that it holds 0 just where p is above 1 - confidence. Elsewhere differences all alike have p = 1 if
    0 and p = 0 if not. `bounds` are those of the metric's values: no difference is larger than they lie apart, and the interval
    ends there.

    Args:
        family: comparisons that Holm's correction is over. It may ask one of them for p below 5 % divided by their number, which
            is what the minimum detectable effect allows for.

    Raises:
        ValueError: as `crossed_mean`, over both sides together; or unlike numbers of repeats, neither of them 1.
    """
    tables, binary = _differences(a, b)
    repeats = max(len(a), len(b))
    found = _estimate(tables, repeats, confidence)
    low, high, test, error = found.low, found.high, "crossed t", found.standard_error
    p_value = two_sided(found.value / error, found.degrees) if error else float(found.value == 0.0)
    plain = len(tables) == 1 and _alike(tables)
    if found.prompts <= EXACT:
        added = [table.mean(axis=0) * (found.prompts / table.shape[1]) for table in tables]  # their mean is the difference
        exact = sign_flips(np.concatenate(added), confidence)
        low, high = (exact.low, exact.high) if plain else (min(low, exact.low), max(high, exact.high))
        if plain or exact.p_value > p_value:
            test, p_value = "exact sign flips", exact.p_value
    elif plain and binary:
        exact = _mcnemar(tables[0][0], confidence)
        low, high = min(low, exact.low), max(high, exact.high)
        if exact.p_value >= p_value:
            test, p_value = "exact McNemar", exact.p_value
    known = None if found.prompts < LEAST or not (found.value or error) else squares(_distinct(tables))
    return Comparison(
        found.value,
        max(low, bounds[0] - bounds[1]),
        min(high, bounds[1] - bounds[0]),
        p_value,
        error,
        math.inf if known is None else detectable(known, family),
        repeats,
        found.prompts,
        test,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given (Holm 1979): each below α keeps the family's error below α. Raises
    ValueError: a value outside 0 … 1."""
    if wrong := [p for p in p_values if not 0.0 <= p <= 1.0]:
        raise ValueError(f"{wrong[0]} is no p-value")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _tables(repeats: dict[str, Sequence[Outcome]]) -> list[Table]:
    """One table a stratum, rows in the order given, columns in the first row's order."""
    if not repeats:
        raise ValueError("no repeats to analyse")
    rows: list[dict[tuple[str, str], float]] = []
    names = list(repeats)
    for name, outcomes in repeats.items():
        row: dict[tuple[str, str], float] = {}
        for outcome in outcomes:
            key = (outcome.stratum, outcome.id)
            if key in row:
                raise ValueError(f"{name} has prompt {outcome.id!r} (stratum {outcome.stratum!r}) twice")
            if not math.isfinite(outcome.value):
                raise ValueError(f"{name}: the outcome of prompt {outcome.id!r} is {outcome.value}, not finite")
            row[key] = outcome.value
        rows.append(row)
        if row.keys() != rows[0].keys():
            stratum, id = min(row.keys() ^ rows[0].keys())
            has, lacks = (name, names[0]) if (stratum, id) in row else (names[0], name)
            raise ValueError(f"repeats need the same prompts: {has} has {id!r} (stratum {stratum!r}), {lacks} has not")
    if not rows[0]:
        raise ValueError("no outcomes to analyse")
    columns: dict[str, list[tuple[str, str]]] = {}
    for key in rows[0]:
        columns.setdefault(key[0], []).append(key)
    return [np.array([[row[key] for key in keys] for row in rows], dtype=np.float64) for keys in columns.values()]


def _differences(a: _Repeats, b: _Repeats) -> tuple[list[Table], bool]:
    """a - b stratum by stratum, a single repeat against all of the other side; and whether both sides are binary."""
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ValueError(f"paired arms must have the same number of repeats, or one of them a single one: {len(a)} and {len(b)}")
    if not a or not b:
        raise ValueError("no repeats to analyse")
    named = {f"{side} {row}": repeat for side, repeats in (("a", a), ("b", b)) for row, repeat in enumerate(repeats)}
    tables = _tables(named)
    # A metric may count against: the harmless refused are -1.
    binary = any(all(np.isin(table, (0.0, one)).all() for table in tables) for one in (1.0, -1.0))
    return [table[: len(a)] - table[len(a) :] for table in tables], binary


def _distinct(tables: list[Table]) -> list[Table]:
    """Repeats that are all alike count as one: the same again is no new evidence."""
    return [table[:1] for table in tables] if _alike(tables) else tables


def _alike(tables: list[Table]) -> bool:
    return all(bool((table == table[0]).all()) for table in tables)


def _estimate(tables: list[Table], repeats: int, confidence: float) -> Estimate:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence} is not between 0 and 1")
    tables = _distinct(tables)
    value = float(np.sum([table.mean(axis=1) for table in tables], axis=0).mean())
    prompts = sum(table.shape[1] for table in tables)
    found = squares(tables)
    of_mean, degrees = (math.inf, 1.0) if found is None else (float(each) for each in variance(found))
    error = math.sqrt(of_mean)
    half = quantile(0.5 + confidence / 2, degrees) * error
    return Estimate(value, value - half, value + half, error, degrees, repeats, prompts)


def _by_log_odds(found: Estimate, tables: list[Table], confidence: float) -> tuple[float, float]:
    """The ends of a share's interval, whose standard error e is that of log-odds by e / (p·(1 - p))."""
    from scipy import special  # late: it would slow every start of the command line

    share, pairs = found.value, min(table.shape[1] for table in tables)
    if not 1e-9 < share < 1 - 1e-9:
        return wilson(round(share) * pairs, pairs, confidence)[1:]
    half = quantile(0.5 + confidence / 2, found.degrees) * found.standard_error / (share * (1 - share))
    low, high = (float(special.expit(special.logit(share) + side)) for side in (-half, half))
    return low, high


def _mcnemar(differences: Table, confidence: float) -> Difference:
    """The mean of differences -1, 0 or 1 with the exact test of their signs, and the interval that turns this test round.

    The interval is Clopper and Pearson's of the share of positive ones, at the number of discordant pairs there is.
    """
    from scipy import stats  # late: it would slow every start of the command line

    discordant, value = int((differences != 0.0).sum()), float(differences.mean())
    if not discordant:
        return Difference(value, value, value, 1.0)
    found = stats.binomtest(int((differences > 0.0).sum()), discordant, 0.5)
    share, ends = discordant / len(differences), found.proportion_ci(confidence, method="exact")
    low, high = (share * (2 * float(end) - 1) for end in ends)
    return Difference(value, low, high, float(found.pvalue))

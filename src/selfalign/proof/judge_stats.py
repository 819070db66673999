"""The statistics of a judge's calibration: pure functions over columns of scores, NaN where a text got none."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from selfalign.proof.stats import Interval, mean_interval, quantile, wilson

Column = NDArray[np.float64]


def auc_interval(good: Column, bad: NDArray[np.float64]) -> Interval:
    """Area under the ROC curve of seeds against their spoiled versions, with a 95 % t interval on the logit scale.

    Each seed and its versions are one cluster (Obuchowski 1997, as DeLong's variance with clusters): the variance is that of
    the seeds' contributions: how often a seed beats all versions, and its own versions lose to all seeds. Where every
    comparison falls the same way there is no variance; the bound is then Wilson's for as many seeds out of as many.

    Args:
        good: shape (seeds,); -inf ranks below every number.
        bad: shape (seeds, kinds), NaN where there is no version.
    """
    seeds, (row, column) = len(good), np.nonzero(~np.isnan(bad))
    others = bad[row, column]
    wins = (good[:, None] > others) + 0.5 * (good[:, None] == others)
    value = float(wins.mean())
    if value in (0.0, 1.0):
        return wilson(round(value * seeds), seeds)
    each = (wins.mean(axis=1) - value) / seeds + np.bincount(row, wins.mean(axis=0) - value, seeds) / len(others)
    error = math.sqrt(seeds / (seeds - 1) * float((each**2).sum()))
    from scipy import special

    half = quantile(0.975, seeds - 1) * error / (value * (1 - value))
    low, high = (float(special.expit(special.logit(value) + side)) for side in (-half, half))
    return Interval(value, low, high)


def mean_change(before: Column, after: Column, cluster: NDArray[np.intp] | None = None) -> Interval:
    """Mean of after - before with its t interval over clusters (by default each row is one); no interval without two."""
    cluster = np.arange(len(before)) if cluster is None else cluster
    known = ~np.isnan(before) & ~np.isnan(after)
    if not known.any():
        return Interval(0.0, -math.inf, math.inf)
    change, names = (after - before)[known], cluster[known]
    means = [float(change[names == each].mean()) for each in np.unique(names)]
    return mean_interval(means)


def repeatability(first: Column, second: Column) -> float:
    """One-way intraclass correlation of two passes; 1 where every score came out the same, 0 where too few came out at all."""
    known = ~np.isnan(first) & ~np.isnan(second)
    if known.sum() < 2:
        return 0.0
    a, b = first[known], second[known]
    between, within = 2 * float(((a + b) / 2).var(ddof=1)), float(((a - b) ** 2).mean() / 2)
    return 1.0 if within == 0.0 else (between - within) / (between + within)


def spearman(a: Column, b: Column) -> Interval:
    """Rank correlation with Fisher's interval, its variance by Bonett and Wright (2000).

    Rows with NaN are left out; below 4 rows, or where one side does not vary, it is 0 with an interval of everything.
    """
    known = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[known], b[known]
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Interval(0.0, -1.0, 1.0)
    from scipy import special, stats

    value = float(stats.spearmanr(a, b).statistic)
    bounded = min(max(value, -0.999), 0.999)
    half = float(special.ndtri(0.975)) * math.sqrt((1 + bounded**2 / 2) / (len(a) - 3))
    low, high = (math.tanh(math.atanh(bounded) + side) for side in (-half, half))
    return Interval(value, min(low, value), max(high, value))


def modal_share(values: Column, scale: tuple[float, float] | None) -> float:
    """The share of the most common value, to 1 % of the scale where there is one; 0 without values."""
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0
    if scale is not None:
        known = np.round((known - scale[0]) / (scale[1] - scale[0]), 2)
    return float(np.unique(known, return_counts=True)[1].max() / len(known))


def entropy(values: Column) -> float:
    """Shannon's, in bits, of the values rounded to whole ones."""
    counts = np.unique(np.round(values[~np.isnan(values)]), return_counts=True)[1]
    share = counts / max(counts.sum(), 1)
    return float(-(share * np.log2(share)).sum()) + 0.0  # no -0.0

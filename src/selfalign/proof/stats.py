"""Intervals and tests for the figures a run reports (scipy). All intervals are two-sided at level `confidence`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT = 16
"""Pairs up to which a difference is tested exactly: all 2^16 subsets take 0.02 s and 16 MiB, each pair more doubles them, and
on this many normal or Laplace differences the p-values of the exact and the t test are at most about 0.01 apart."""
LEAST = 6
"""Pairs below which the exact test cannot say p < 0.05: with all differences on one side p is 2^(1-n), its least."""


class Interval(NamedTuple):
    """A figure with its confidence interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A difference with its interval and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """A share with its Wilson score interval, which keeps its level near 0 and 1 and for small n (Wilson 1927). Raises
    ValueError: n < 1, or successes outside 0 … n."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share of {successes} in {n} does not exist")
    from scipy import stats  # late, here and below: it would slow every start of the command line

    found = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def newcombe(successes: tuple[int, int], n: tuple[int, int], confidence: float = 0.95) -> Interval:
    """The difference of two independent shares, first minus second, with Newcombe's interval from the two Wilson intervals.

    (Newcombe 1998, method 10.) Raises ValueError: as `wilson`.
    """
    one, two = (wilson(k, m, confidence) for k, m in zip(successes, n, strict=True))
    value = one.value - two.value
    low = value - math.hypot(one.value - one.low, two.high - two.value)
    high = value + math.hypot(one.high - one.value, two.value - two.low)
    return Interval(value, max(low, -1.0), min(high, 1.0))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with its t interval. One value alone says nothing about spread: its interval is infinite, never NaN. Raises
    ValueError: no values, or one that is not finite."""
    data = _finite(values)
    mean = float(data.mean())
    half = _half_width(data, confidence)
    return Interval(mean, mean - half, mean + half)


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Difference:
    """The mean of a - b over pairs (the same prompts under two models), by `sign_flips` up to EXACT pairs, by Student's t above.

    By t, where all differences are equal the interval is that point, with p = 1 if it is 0 and p = 0 if not.

    Raises:
        ValueError: no pairs, lengths differ, or a value that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be as many on both sides, not {len(a)} and {len(b)}")
    data = _finite(a) - _finite(b)
    if len(data) <= EXACT:
        return sign_flips(data, confidence)
    mean, half, error = float(data.mean()), _half_width(data, confidence), _standard_error(data)
    p_value = two_sided(mean / error, len(data) - 1) if error else float(mean == 0.0)
    return Difference(mean, mean - half, mean + half, p_value)


def sign_flips(differences: NDArray[np.float64], confidence: float = 0.95) -> Difference:
    """The mean of up to EXACT paired differences, shape (n,), with interval and p of the exact sign-flip test.

    p is the share of all 2^n ways to give the differences a sign whose mean is as far from 0 as the one seen (Fisher 1935, The
    Design of Experiments, section 21; Pitman 1937). It supposes that a difference is as likely to have either sign, not that
    it is normal: of two or three differences that happen to be nearly equal, Student's t says p < 0.001. The interval holds
    each mean that the test does not refuse (Hartigan 1969), so it excludes 0 just where p is at most 1 - confidence; at
    95 % it is infinite below LEAST differences.
    """
    # By subsets: flipping one leaves a positive mean as large, or larger, where the subset's own mean is 0 or below, and its
    # complement turns the mean round as far. scipy's permutation_test is as exact, but takes 0.5 s for 16, gives no interval,
    # and misses ties where the mean is near 0: its tolerance is relative to that.
    count = len(differences)
    chosen = np.arange(1, 2**count)[:, None] >> np.arange(count) & 1
    means = np.sort(chosen @ differences / chosen.sum(axis=1))
    tie = 1e-9 * float(np.abs(differences).max())  # far above what rounding does to a - b
    other_side = min(int((means <= tie).sum()), int((means >= -tie).sum()))
    value, low, high = float(differences.mean()), -math.inf, math.inf
    if outside := int(2**count * (1 - confidence) / 2):
        low, high = min(float(means[outside - 1]), value), max(float(means[-outside]), value)  # rounding must not move them past
    return Difference(value, low, high, min(1.0, 2 * (1 + other_side) / 2**count))


def too_few(count: int, what: str) -> str:
    """That so many pairs (`what` they are of) can show no difference, in words; "" where they can."""
    return f"fewer than {LEAST} {what} cannot tell two models apart" if count < LEAST else ""


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(data):
        raise ValueError("no values to take a mean of")
    if not np.isfinite(data).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(data))[0])} is not finite")
    return data


def _standard_error(data: NDArray[np.float64]) -> float:
    return float(data.std(ddof=1) / math.sqrt(len(data)))


def _half_width(data: NDArray[np.float64], confidence: float) -> float:
    if len(data) == 1:
        return math.inf
    return quantile(0.5 + confidence / 2, len(data) - 1) * _standard_error(data)


def quantile(level: float, degrees: float) -> float:
    """Of Student's t distribution."""
    from scipy import special

    return float(special.stdtrit(degrees, level))


def two_sided(t: float, degrees: float) -> float:
    """The p-value of Student's t."""
    from scipy import special

    return float(2 * special.stdtr(degrees, -abs(t)))

"""Intervals and tests for the figures a run reports (scipy). All intervals are two-sided at level `confidence`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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
    """A share with its Wilson score interval, which keeps its level near 0 and 1 and for small n (Wilson 1927).

    Raises:
        ValueError: n < 1, or successes outside 0 … n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"a share of {successes} in {n} does not exist")
    z = _quantile(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is the share itself; rounding must not move it past.
    return Interval(share, min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share))


def newcombe(successes: tuple[int, int], n: tuple[int, int], confidence: float = 0.95) -> Interval:
    """The difference of two independent shares, first minus second, with Newcombe's interval from the two Wilson intervals.

    (Newcombe 1998, method 10.)

    Raises:
        ValueError: as `wilson`.
    """
    one, two = (wilson(k, m, confidence) for k, m in zip(successes, n, strict=True))
    value = one.value - two.value
    low = value - math.hypot(one.value - one.low, two.high - two.value)
    high = value + math.hypot(one.high - one.value, two.value - two.low)
    return Interval(value, max(low, -1.0), min(high, 1.0))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean with its t interval. One value alone says nothing about spread: its interval is infinite, never NaN.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    data = _finite(values)
    mean = float(data.mean())
    half = _half_width(data, confidence)
    return Interval(mean, mean - half, mean + half)


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Difference:
    """The mean of a - b over pairs (the same prompts under two models), with its t interval and the paired t-test's p-value.

    Where all differences are equal the interval is that point, with p = 1 if it is 0 and p = 0 if not; one pair alone
    gives an infinite interval and p = 1.

    Raises:
        ValueError: no pairs, lengths differ, or a value that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values must be as many on both sides, not {len(a)} and {len(b)}")
    data = _finite(a) - _finite(b)
    mean, half = float(data.mean()), _half_width(data, confidence)
    if len(data) == 1:
        p_value = 1.0
    elif (error := _standard_error(data)) == 0.0:
        p_value = 1.0 if mean == 0.0 else 0.0
    else:
        p_value = _two_sided(mean / error, len(data) - 1)
    return Difference(mean, mean - half, mean + half, p_value)


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(data):
        raise ValueError("no values to take a mean of")
    if not np.isfinite(data).all():
        raise ValueError(f"value {int(np.flatnonzero(~np.isfinite(data))[0])} is not finite")
    return data


def _standard_error(data: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(data.std(ddof=1) / math.sqrt(len(data)))


def _half_width(data: np.ndarray[tuple[int], np.dtype[np.float64]], confidence: float) -> float:
    if len(data) == 1:
        return math.inf
    return _quantile(confidence, len(data) - 1) * _standard_error(data)


# scipy.special, imported late: it and all of scipy.stats would slow every start of the command line.
def _quantile(confidence: float, degrees: int | None = None) -> float:
    """How many standard errors reach to either side: of the normal distribution, or of Student's t."""
    from scipy import special

    level = 0.5 + confidence / 2
    return float(special.ndtri(level) if degrees is None else special.stdtrit(degrees, level))


def _two_sided(t: float, degrees: int) -> float:
    from scipy import special

    return float(2 * special.stdtr(degrees, -abs(t)))

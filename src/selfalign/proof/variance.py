"""The variance of a metric over prompts and repeats, and the least true difference that a study of such variance finds.

The formulas and the reasons for them stand in `proof.crossed`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
"""The outcomes of one stratum: a row a repeat, a column a prompt."""
_DRAWS = 2000
_POWER = 0.8


class Squares(NamedTuple):
    """What an analysis of variance finds, each as its part of the variance of the mean; the arrays have an entry a stratum.

    They may have a second axis of simulated studies.
    """

    repeats: int
    widths: NDArray[np.int64]
    """Prompts of each stratum."""
    of_repeats: Any
    """s²_m / R."""
    of_prompts: NDArray[np.float64]
    """MS_P / (R·P)."""
    of_residual: NDArray[np.float64]
    """MS_E / (R·P)."""


def squares(tables: Sequence[Table]) -> Squares | None:
    """Of the repeats' metric, the sum over strata of their means; None where a stratum of one prompt says nothing of spread."""
    repeats, widths = len(tables[0]), np.array([table.shape[1] for table in tables])
    if widths.min() == 1:
        return None
    of_prompts = np.array([_spread(table.mean(axis=0)) for table in tables]) / widths
    if repeats == 1:
        return Squares(1, widths, 0.0, of_prompts, np.zeros(len(tables)))
    metric = np.sum([table.mean(axis=1) for table in tables], axis=0)
    of_residual = np.array([_residual(table) for table in tables]) / (repeats * widths)
    return Squares(repeats, widths, _spread(metric) / repeats, of_prompts, of_residual)


def variance(found: Squares) -> tuple[Any, Any]:
    """Of the mean: its variance and the degrees of freedom of that, each a number, or an array over simulated studies."""
    parts, floor = np.maximum(0.0, found.of_prompts - found.of_residual), np.maximum(found.of_prompts, found.of_residual)
    width = found.widths.reshape(-1, *([1] * (floor.ndim - 1)))
    least = floor.sum(axis=0)
    total = np.maximum(found.of_repeats + parts.sum(axis=0), least)
    some = np.where(total > 0.0, total, 1.0)  # without any variance nothing is divided by it
    floored = found.of_repeats + parts.sum(axis=0) < least
    shares = np.where(floored, floor * (1 - found.of_repeats / some), parts) / some
    inverse = (shares**2 / (width - 1)).sum(axis=0)
    if found.repeats > 1:
        inverse = inverse + found.of_repeats / some / (found.repeats - 1)
    without = float(found.widths.sum() - len(found.widths))
    return total, np.where(total > 0.0, np.maximum(1.0, 1 / np.where(inverse > 0.0, inverse, 1.0)), without)


def detectable(found: Squares, family: int) -> float:
    """The true difference that four in five studies of this variance find at two-sided 5 % divided by `family`, by t.

    With one repeat by the noncentral t distribution. With more, whose few degrees of freedom differ from study to study, as the
    difference that 2,000 simulated studies find with this power: their mean squares are drawn around those found (chi-square).
    The repeats' own one is taken as large as it is in the middle of what it may be, because of three repeats it is mostly far
    too small (our own choice: simulated power at the figure 0.78 to 0.85; with t quantiles added it was 0.54 to 0.72).
    """
    from scipy import special

    if found.repeats == 1:
        total, degrees = variance(found)
        return float(special.nctdtrinc(degrees, 1 - _POWER, special.stdtrit(degrees, 1 - 0.025 / family)) * math.sqrt(total))
    random, free = np.random.default_rng(0), found.repeats - 1
    middle = found.of_repeats * free / (2 * special.gammaincinv(free / 2, 0.5))
    of_repeats = max(float(middle), float(found.of_residual.sum()))
    true = of_repeats + float(np.maximum(0.0, found.of_prompts - found.of_residual).sum())

    def drawn(squares: Any, degrees: Any) -> Any:
        return np.asarray(squares)[..., None] * (
            random.chisquare(np.asarray(degrees)[..., None], (*np.shape(squares), _DRAWS)) / np.asarray(degrees)[..., None]
        )

    prompts, residual = drawn(found.of_prompts, found.widths - 1), drawn(found.of_residual, free * (found.widths - 1))
    total, degrees = variance(found._replace(of_repeats=drawn(of_repeats, free), of_prompts=prompts, of_residual=residual))
    bound = special.stdtrit(degrees, 1 - 0.025 / family) * np.sqrt(total)
    low, high = 0.0, float(bound.max()) + 10 * math.sqrt(true)
    for _ in range(50):
        middle = (low + high) / 2
        enough = special.ndtr((middle - bound) / math.sqrt(true)).mean() >= _POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _spread(values: Table) -> float:
    """The sample variance, exactly 0 for values all alike: their mean may be off by a rounding, their distances are not."""
    return float((values - values[0]).var(ddof=1))


def _residual(table: Table) -> float:
    """MS_E: the mean square of what neither prompt nor repeat explains."""
    table = table - table[0]  # takes nothing but prompt effects away, and leaves exact zeros where repeats agree
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    repeats, prompts = table.shape
    return float((rest**2).sum() / ((repeats - 1) * (prompts - 1)))

"""What a win rate would be if the answers were as long as the references (Dubois et al. 2024, length-controlled AlpacaEval)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PRIOR = 10.0
"""Standard deviation of a normal prior on both coefficients, in log-odds: estimates stay finite where every answer wins or
every winner is the longer one, and 30 prompts that can tell outweigh it (our own choice)."""


class Controlled(NamedTuple):
    """A win rate at equal lengths with its 95 % interval, all in 0 … 1."""

    value: float
    low: float
    high: float
    outcomes: tuple[float, ...]
    """Prompt by prompt, with mean `value`: `value` plus what the prompt adds to it (its influence), so that two models can be
    compared in pairs. A single one may lie outside 0 … 1. Empty where their spread accounts for less than three quarters of the
    figure's variance: a comparison by them would be surer than the interval."""


def length_controlled(preferences: Sequence[float], differences: Sequence[float]) -> Controlled | None:
    """The preference at equal lengths, by a logistic regression of preferences on the difference in length.

    preference ~ expit(constant + slope · tanh(difference / its standard deviation)); the figure is expit(constant). AlpacaEval
    2.0 has a further term, each instruction's difficulty, fitted on its own prompts and models: there is none for others.

    Preferences may be fractions, so the interval rests on the spread of the scores (Papke and Wooldridge 1996) or on the
    variance of a logistic model, whichever is larger, with Student's t at n-2 degrees of freedom; the prior enters as one more
    observation. Where all answers are longer than their references, equal length lies outside the data, the prior alone limits
    the slope, and the interval says so by its width. Simulated with 40 and 160 prompts, yes and no or fractions, length
    deciding from nothing to everything, it covers in 93 to 100 %.

    Args:
        preferences: of the answer over its reference, in 0 … 1.
        differences: length of the answer minus that of the reference, in any unit.

    Returns:
        None below three prompts, or where the differences are all the same: then nothing can be said about length.
    """
    wins, lengths = np.asarray(preferences, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    spread = float(lengths.std(ddof=1)) if len(lengths) > 2 else 0.0
    if spread == 0.0:
        return None
    from scipy import special

    n = len(wins)
    terms = np.column_stack([np.ones(n), np.tanh(lengths / spread)])
    prior = np.eye(2) / PRIOR**2
    fitted = _fit(terms, wins, prior)
    expected = special.expit(terms @ fitted)
    scores, doubt = terms * (wins - expected)[:, None], expected * (1.0 - expected)
    information = terms.T @ (terms * doubt[:, None])
    inverse = np.linalg.inv(information + prior)
    seen = float((inverse @ (scores.T @ scores) @ inverse)[0, 0]) * n / (n - 2)
    # Where length decides all, the scores are near 0 though the threshold is not known: then the variance that yes and no
    # would have, less what lies inside the fractions, p(1-p) - y(1-y), is the larger one.
    model = max(0.0, 1.0 - float((wins * (1.0 - wins)).sum() / doubt.sum())) * float((inverse @ information @ inverse)[0, 0])
    variance = max(seen, model) + float((inverse @ prior @ inverse)[0, 0])
    half = float(special.stdtrit(n - 2, 0.975)) * variance**0.5
    value, low, high = (float(special.expit(fitted[0] + step)) for step in (0.0, -half, half))
    outcomes: tuple[float, ...] = ()
    if seen >= 0.75 * variance:
        influence = n * value * (1.0 - value) * ((scores - scores.mean(axis=0)) @ inverse[0])
        outcomes = tuple(float(each) for each in value + influence)
    return Controlled(value, low, high, outcomes)


def _fit(terms: NDArray[np.float64], wins: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients of the highest posterior: a convex problem with one solution."""
    from scipy import optimize, special

    def loss(coefficients: NDArray[np.float64]) -> float:
        logits = terms @ coefficients
        return float((np.logaddexp(0.0, logits) - wins * logits).sum() + coefficients @ prior @ coefficients / 2)

    def gradient(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        slope: NDArray[np.float64] = terms.T @ (special.expit(terms @ coefficients) - wins) + prior @ coefficients
        return slope

    def curvature(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        expected = special.expit(terms @ coefficients)
        matrix: NDArray[np.float64] = terms.T @ (terms * (expected * (1.0 - expected))[:, None]) + prior
        return matrix

    found: NDArray[np.float64] = optimize.minimize(
        loss, np.zeros(2), method="trust-exact", jac=gradient, hess=curvature, options={"gtol": 1e-9}
    ).x
    return found

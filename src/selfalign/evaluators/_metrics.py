"""Figures over prompts as metrics: value, interval, and the outcome of each prompt beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfalign.stats import mean_interval, wilson
from selfalign.types import Metric, Outcome


def share(name: str, ids: Sequence[str], verdicts: Sequence[bool]) -> Metric:
    """A share of prompts with Wilson's interval. Raises ValueError where there are none."""
    return Metric(name, *wilson(sum(verdicts), len(verdicts)), n=len(verdicts), outcomes=outcomes(ids, verdicts))


def mean(name: str, ids: Sequence[str], values: Sequence[float]) -> Iterator[Metric]:
    """A mean over prompts with its t interval; nothing below two prompts, where there is no interval."""
    if len(values) > 1:
        yield Metric(name, *mean_interval(values), n=len(values), outcomes=outcomes(ids, values))


def outcomes(ids: Sequence[str], values: Sequence[float], stratum: str = "") -> tuple[Outcome, ...]:
    return tuple(Outcome(id, float(value), stratum) for id, value in zip(ids, values, strict=True))

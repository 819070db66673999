"""Figures over prompts as metrics: value, interval, with the outcome of each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfalign.proof.stats import mean_interval, wilson
from selfalign.types import BOUNDS, Better, Metric, Outcome, Unit


def share(name: str, ids: Sequence[str], verdicts: Sequence[bool], better: Better = "higher") -> Metric:
    """A share of prompts with Wilson's interval. Raises ValueError where there are none."""
    figures, by_prompt = wilson(sum(verdicts), len(verdicts)), outcomes(ids, verdicts)
    return Metric(name, *figures, n=len(verdicts), outcomes=by_prompt, unit="share", better=better)


def mean(
    name: str, ids: Sequence[str], values: Sequence[float], unit: Unit = "number", better: Better = "higher"
) -> Iterator[Metric]:
    """A mean over prompts with its t interval, cut at the unit's bounds; nothing below two prompts: there is none."""
    if len(values) > 1:
        value, low, high = mean_interval(values)
        least, most = BOUNDS[unit]
        by_prompt = outcomes(ids, values)
        yield Metric(name, value, max(low, least), min(high, most), len(values), by_prompt, unit, better)


def outcomes(ids: Sequence[str], values: Sequence[float], stratum: str = "") -> tuple[Outcome, ...]:
    return tuple(Outcome(id, float(value), stratum) for id, value in zip(ids, values, strict=True))

"""Seconds that something will take, with their range, and how they are said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from selfalign.proof.stats import mean_interval


class Time(NamedTuple):
    """Seconds: as they were measured, at least and at most."""

    about: float
    low: float
    high: float

    @classmethod
    def exactly(cls, seconds: float) -> Time:
        return cls(seconds, seconds, seconds)

    @classmethod
    def total(cls, times: Iterable[Time]) -> Time:
        abouts, lows, highs = zip(*(*times, NOTHING), strict=True)
        return cls(sum(abouts), sum(lows), sum(highs))

    def by(self, count: float) -> Time:
        return Time(count * self.about, count * self.low, count * self.high)


NOTHING = Time(0.0, 0.0, 0.0)


def budgeted(tokens: Sequence[int], budget: int) -> tuple[float, float]:
    """(least, most) that texts take, by those that had so many tokens, which count as 1: at the lower end of the mean's 95 %
    interval, and where all of them use the whole budget."""
    mean = sum(tokens) / len(tokens) if tokens else 0.0
    if not mean:
        return 1.0, 1.0
    low = mean_interval([float(count) for count in tokens]).low if len(tokens) > 1 else 0.0
    return min(1.0, max(0.0, low / mean)), max(1.0, budget / mean)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Win rates at equal lengths: the figure, its interval, and the outcomes that two models are compared by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from selfalign.evaluators._length_control import length_controlled


def odds(share: float) -> float:
    return math.log(share / (1 - share))


def draw(seed: int, count: int, shift: float) -> Any:
    return np.random.default_rng(seed).normal(shift, 1.0, count)


def test_where_length_alone_decides_the_controlled_figure_is_near_a_half() -> None:
    longer = 40.0 * draw(0, 200, 1.0)
    wins = (longer > 0).astype(float)
    found = length_controlled(wins, longer)
    assert found is not None
    assert wins.mean() > 0.8
    assert found.low < 0.5 < found.high
    assert found.value < wins.mean() - 0.1


def test_where_length_says_nothing_the_controlled_figure_is_the_raw_one() -> None:
    longer = draw(1, 400, 0.3)
    wins = (np.random.default_rng(2).random(400) < 0.7).astype(float)
    found = length_controlled(wins, longer)
    assert found is not None
    assert found.value == pytest.approx(wins.mean(), abs=0.03)
    assert found.high - found.low < 0.14


def test_the_unit_of_length_does_not_matter() -> None:
    longer, wins = draw(3, 60, 0.5), np.random.default_rng(4).random(60)
    one, other = length_controlled(wins, longer), length_controlled(wins, 7.0 * longer)
    assert one is not None and other is not None
    assert other[:3] == pytest.approx(one[:3])
    assert other.outcomes == pytest.approx(one.outcomes)


def test_two_lengths_by_hand() -> None:
    """Differences of ±1 have only two values of the term, so the constant is the mean of two log-odds."""
    longer = [1.0] * 100 + [-1.0] * 100
    wins = [1.0] * 90 + [0.0] * 10 + [1.0] * 60 + [0.0] * 40
    found = length_controlled(wins, longer)
    assert found is not None
    middle = (odds(0.9) + odds(0.6)) / 2
    assert found.value == pytest.approx(1 / (1 + math.exp(-middle)), abs=2e-3)  # the prior pulls a little
    # Delta method: variance of a log-odds 1 / (n p q), of the mean of two a quarter of their sum.
    error = math.sqrt((1 / (100 * 0.09) + 1 / (100 * 0.24)) / 4)
    assert found.low == pytest.approx(1 / (1 + math.exp(1.972 * error - middle)), abs=4e-3)
    assert found.high == pytest.approx(1 / (1 + math.exp(-1.972 * error - middle)), abs=4e-3)


def test_lengths_all_on_one_side_leave_it_open() -> None:
    longer = np.random.default_rng(5).uniform(100, 300, 80)
    found = length_controlled(np.ones(80), longer)
    assert found is not None
    assert found.low < 0.05 and found.high > 0.95
    assert found.outcomes == ()


def test_outcomes_carry_the_figure_and_its_spread() -> None:
    longer = draw(6, 150, 0.5)
    wins = (np.random.default_rng(7).random(150) < 1 / (1 + np.exp(-2 * np.tanh(longer)))).astype(float)
    found = length_controlled(wins, longer)
    assert found is not None
    assert len(found.outcomes) == 150
    assert np.mean(found.outcomes) == pytest.approx(found.value)
    half = 1.976 * np.std(found.outcomes, ddof=1) / math.sqrt(150)
    assert half == pytest.approx((found.high - found.low) / 2, rel=0.1)


@pytest.mark.parametrize("fractions", [False, True])
def test_the_interval_covers(fractions: bool) -> None:
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(150):
        longer = rng.normal(1.0, 1.0, 60)
        share = 1 / (1 + np.exp(-0.5 - 2 * np.tanh(longer / longer.std(ddof=1))))
        wins = rng.beta(8 * share, 8 * (1 - share)) if fractions else (rng.random(60) < share).astype(float)
        found = length_controlled(wins, longer)
        assert found is not None
        hits += found.low <= 1 / (1 + math.exp(-0.5)) <= found.high
    assert 0.9 <= hits / 150 <= 0.99


def test_two_models_that_differ_in_length_alone_are_told_to_be_equal() -> None:
    """Paired by prompt: their controlled outcomes differ no more than chance has it, their raw ones do."""
    rng = np.random.default_rng(9)
    raw, controlled = 0, 0
    for _ in range(60):
        liking = rng.normal(0.0, 1.0, 120)
        differences = []
        for shift in (1.0, 0.0):
            longer = rng.normal(shift, 1.0, 120)
            wins = (rng.random(120) < 1 / (1 + np.exp(-liking - 2 * np.tanh(longer)))).astype(float)
            found = length_controlled(wins, longer)
            assert found is not None and found.outcomes
            differences.append((wins, np.asarray(found.outcomes)))
        for kind, values in enumerate(zip(*differences, strict=True)):
            change = values[0] - values[1]
            clear = abs(change.mean()) > 1.98 * change.std(ddof=1) / math.sqrt(120)
            raw, controlled = raw + (clear and kind == 0), controlled + (clear and kind == 1)
    assert raw > 30
    assert controlled < 10


def test_nothing_to_tell_about_length() -> None:
    assert length_controlled([1.0, 0.0], [1.0, 2.0]) is None
    assert length_controlled([1.0, 0.0, 1.0], [4.0, 4.0, 4.0]) is None

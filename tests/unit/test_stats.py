from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from selfalign.proof.stats import EXACT, LEAST, mean_interval, newcombe, paired_difference, too_few, wilson


def test_wilson_known_values() -> None:
    # Newcombe 1998 (single proportion), table I, method 3.
    assert wilson(81, 263) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=6e-5)
    assert wilson(15, 148) == pytest.approx((15 / 148, 0.0624, 0.1605), abs=6e-5)


@pytest.mark.parametrize(("k", "n", "confidence"), [(3, 250, 0.95), (42, 750, 0.9), (1, 1, 0.95), (0, 7, 0.99)])
def test_wilson_equals_scipy(k: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx((k / n, expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("k", [0, 20])
def test_wilson_stays_inside_and_holds_the_share(k: int) -> None:
    value, low, high = wilson(k, 20)
    assert 0.0 <= low <= value <= high <= 1.0
    assert high - low == pytest.approx(0.1611, abs=1e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_share_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        wilson(k, n)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998 (independent proportions), table II, method 10, contrasts (a), (b), (e), (h).
    [
        ((56, 48), (70, 80), 0.0524, 0.3339),
        ((9, 3), (10, 10), 0.1705, 0.8090),
        ((5, 0), (56, 29), -0.0381, 0.1926),
        ((10, 0), (10, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_known_values(k: tuple[int, int], n: tuple[int, int], low: float, high: float) -> None:
    value, *interval = newcombe(k, n)
    assert value == pytest.approx(k[0] / n[0] - k[1] / n[1])
    assert interval == pytest.approx([low, high], abs=6e-5)


def test_mean_interval_is_the_t_interval() -> None:
    data = [2.0, 4.0, 4.0, 5.0, 7.0, 9.0]
    expected = stats.ttest_1samp(data, 0.0).confidence_interval(0.9)
    value, low, high = mean_interval(data, confidence=0.9)
    assert value == pytest.approx(np.mean(data))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_one_value_knows_no_spread() -> None:
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)
    assert paired_difference([3.0], [1.0]) == (2.0, -math.inf, math.inf, 1.0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_mean_without_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no values|not finite"):
        mean_interval(values)


def test_paired_difference_is_the_paired_t_test() -> None:
    random = np.random.default_rng(5)
    a, b = random.normal(1.0, 2.0, 30), random.normal(0.5, 2.0, 30)
    expected = stats.ttest_rel(a, b)
    value, low, high, p = paired_difference(a, b)
    interval = expected.confidence_interval()
    assert (value, low, high, p) == pytest.approx((np.mean(a - b), interval.low, interval.high, expected.pvalue))


def by_enumeration(tenths: list[int]) -> float:
    """p of the sign-flip test, every assignment one by one, in whole numbers: ties are exact."""
    sums = [sum(sign * each for sign, each in zip(signs, tenths, strict=True)) for signs in product((-1, 1), repeat=len(tenths))]
    return sum(abs(each) >= abs(sum(tenths)) for each in sums) / len(sums)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 9, 13, EXACT])
def test_few_pairs_are_tested_exactly(count: int) -> None:
    random = np.random.default_rng(count)
    found = []
    for highest in (2, 30) if count > 9 else (1, 2, 5, 30) * 20:  # small whole numbers tie often, and are 0 often
        tenths = random.integers(-highest, highest + highest // 3, count, endpoint=True).tolist()
        before = random.integers(0, 1000, count)
        p = paired_difference(((before + tenths) / 10).tolist(), (before / 10).tolist()).p_value  # each off by a rounding
        assert p == by_enumeration(tenths), tenths
        found.append(p)
    assert count < LEAST or count > 9 or min(found) < 0.05 < max(found)


def test_ties_around_a_mean_of_nought_are_ties() -> None:
    # In floats their mean is 1.6e-17: a tolerance relative to that misses ties (0.97, as scipy has it).
    assert paired_difference([0.001, 0.1, 0.2, -0.3, 0.7, -0.7, -0.001], [0.0] * 7).p_value == 1.0


def test_equal_differences_prove_no_more_than_their_number() -> None:
    for count in range(2, EXACT + 1):
        up, down = paired_difference([2.1] * count, [1.0] * count), paired_difference([1.0] * count, [2.1] * count)
        assert up.p_value == down.p_value == 2.0 ** (1 - count) and (up.p_value < 0.05) == (count >= LEAST)
        ends = (1.1, 1.1) if count >= LEAST else (-math.inf, math.inf)
        assert up[:3] == pytest.approx((1.1, *ends)) and up.low <= up.value <= up.high
        assert paired_difference([2.1] * count, [2.1] * count).p_value == 1.0
    many = [1.0] * (EXACT + 1)
    assert paired_difference(many, many) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference([2.0] * len(many), many) == (1.0, 1.0, 1.0, 0.0)


def test_two_or_three_pairs_that_agree_prove_nothing() -> None:
    for few in ([-0.3, -0.3001], [-0.3, -0.3001, -0.2999]):
        assert stats.ttest_1samp(few, 0.0).pvalue < 0.001
        found = paired_difference(few, [0.0] * len(few))
        assert found[1:] == (-math.inf, math.inf, 2.0 ** (1 - len(few))) and found.value == pytest.approx(-0.3, rel=1e-3)


@pytest.mark.parametrize("count", [6, 8, 12])
def test_the_exact_interval_holds_what_the_exact_test_does_not_refuse(count: int) -> None:
    random = np.random.default_rng(count)
    for data in random.standard_t(2, (40, count)) + 0.7:
        value, low, high, p = paired_difference(data.tolist(), [0.0] * count, 0.9)
        assert low <= value <= high and (low <= 0.0 <= high) == (p > 0.1)
        tests = [paired_difference(data.tolist(), [mean] * count).p_value for mean in (low - 1e-6, low + 1e-6, high + 1e-6)]
        assert tests[0] <= 0.1 < tests[1] and tests[2] <= 0.1


def test_too_few_is_told_where_no_p_could_be_small() -> None:
    assert too_few(LEAST, "prompts") == ""
    assert too_few(LEAST - 1, "prompts") == "fewer than 6 prompts cannot tell two models apart"


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="no values"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="value 1 is not finite"):
        paired_difference([1.0, math.nan], [1.0, 2.0])


def test_intervals_cover_at_their_level() -> None:
    random = np.random.default_rng(11)
    trials = 2000
    shares = sum(low <= 0.1 <= high for _, low, high in (wilson(k, 60) for k in random.binomial(60, 0.1, trials)))
    means = sum(low <= 1.0 <= high for _, low, high in map(mean_interval, random.normal(1.0, 3.0, (trials, 8))))
    pairs = zip(random.binomial(96, 0.7, trials), random.binomial(64, 0.1, trials), strict=True)
    differences = sum(low <= 0.6 <= high for _, low, high in (newcombe((a, b), (96, 64)) for a, b in pairs))
    random_pairs = random.laplace(1.0, 3.0, (trials, 8))
    exact = sum(low <= 1.0 <= high for _, low, high, _ in (paired_difference(row, [0.0] * 8) for row in random_pairs))
    # Six standard errors of a simulated level of 95 % over 2,000 trials are 0.03.
    assert [each / trials for each in (shares, means, differences, exact)] == pytest.approx([0.95] * 4, abs=0.03)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from selfalign.proof.crossed import Comparison, Estimate, compare, crossed_mean, holm
from selfalign.proof.stats import mean_interval, paired_difference
from selfalign.types import Outcome

Table = NDArray[np.float64]


def outcomes(values: Sequence[float], stratum: str = "") -> list[Outcome]:
    return [Outcome(f"p{place}", value, stratum) for place, value in enumerate(values)]


def study(table: Sequence[Sequence[float]] | Table, stratum: str = "") -> list[list[Outcome]]:
    """A row a repeat, a column a prompt."""
    return [outcomes([float(value) for value in row], stratum) for row in table]


# Repeat means 2, 4, 6: s²_m = 4. Prompt means 2, 6: MS_P = 3 · 8 = 24. Residuals ±1, 0, ∓1: sum of squares 4, over
# (3 - 1)(2 - 1): MS_E = 2. Var = 4 / 3 + (24 - 2) / (3 · 2) = 5. 1 / df = (4/15) / 2 + (11/15)² / 1 = 151/225.
HAND = [[1.0, 3.0], [2.0, 6.0], [3.0, 9.0]]


def test_crossed_mean_by_hand() -> None:
    found = crossed_mean(study(HAND))
    assert found.value == pytest.approx(4.0)
    assert found.standard_error == pytest.approx(math.sqrt(5.0))
    assert found.degrees == pytest.approx(225 / 151)
    half = stats.t.ppf(0.975, 225 / 151) * math.sqrt(5.0)
    assert (found.low, found.high) == pytest.approx((4.0 - half, 4.0 + half))
    assert (found.repeats, found.prompts) == (3, 2)


def test_strata_add_up_by_hand() -> None:
    # A second stratum of the same figures the other way round: the repeats cancel (s²_m = 0), and the prompt terms add to
    # 2 · 22 / 6 < 2 · 24 / 6 = 8, the estimate without an effect of the repeats. Two equal shares of one degree each: df 2.
    both = [[*one, *two] for one, two in zip(study(HAND, "a"), study(HAND[::-1], "b"), strict=True)]
    found = crossed_mean(both)
    assert (found.value, found.standard_error, found.degrees) == pytest.approx((8.0, math.sqrt(8.0), 2.0))
    assert found.prompts == 4


def test_equal_rates_by_chance_are_no_certainty() -> None:
    # Every repeat has 1 of 2 right and so has every prompt; what differs is the residual: MS_E = 1, over R·P = 4.
    found = crossed_mean(study([[1.0, 0.0], [0.0, 1.0]]))
    assert found.standard_error == pytest.approx(0.5)
    assert found.low < 0.0 < 1.0 < found.high


def test_one_repeat_is_the_t_interval_over_prompts() -> None:
    values = [2.0, 4.0, 4.0, 5.0, 7.0, 9.0]
    found = crossed_mean(study([values]), confidence=0.9)
    assert found[:3] == pytest.approx(mean_interval(values, 0.9))
    assert found.degrees == pytest.approx(5)
    # Two strata: the variances add, with Welch's degrees of freedom.
    other = [1.0, 0.0, 5.0]
    both = crossed_mean([[*outcomes(values, "x"), *outcomes([-value for value in other], "y")]], confidence=0.9)
    expected = stats.ttest_ind(values, other, equal_var=False).confidence_interval(0.9)
    assert (both.low, both.high) == pytest.approx((expected.low, expected.high))


def test_a_deterministic_arm_has_prompts_only() -> None:
    values = [0.1, 0.7, 0.3, 0.4, 0.2]
    assert crossed_mean(study([values] * 3)) == crossed_mean(study([values]))._replace(repeats=3)


def test_no_spread_is_a_point_and_one_prompt_knows_none() -> None:
    # Three times 0.1 have a mean a rounding off 0.1: no spread may come of it.
    value = (0.1 + 0.1 + 0.1) / 3
    assert crossed_mean(study([[0.1] * 3] * 3)) == Estimate(value, value, value, 0.0, 2.0, 3, 3)
    assert crossed_mean(study([[0.1], [0.3]]))[:4] == pytest.approx((0.2, -math.inf, math.inf, math.inf))
    assert crossed_mean([[*outcomes([0.5, 0.7], "x"), *outcomes([0.1], "y")]]).high == math.inf
    lone = compare(study([[0.5]]), study([[0.1]]))
    assert (lone.p_value, lone.standard_error, lone.minimum_detectable) == (1.0, math.inf, math.inf)


def test_prompts_are_paired_by_id_in_any_order() -> None:
    shuffled = [list(reversed(repeat)) if row else repeat for row, repeat in enumerate(study(HAND))]
    assert crossed_mean(shuffled) == crossed_mean(study(HAND))


def test_compare_analyses_the_differences() -> None:
    table = np.tile(HAND, 9)  # 18 prompts: no exact test
    base = np.random.default_rng(4).integers(-9, 9, table.shape).astype(float)
    found = compare(study(base + table), study(base))
    expected = crossed_mean(study(table))
    assert found[:3] == pytest.approx(expected[:3])
    t = 4.0 / expected.standard_error
    assert found.p_value == pytest.approx(2 * stats.t.sf(t, expected.degrees))
    assert found[5:] == (found.minimum_detectable, 3, 18, "crossed t")


@pytest.mark.parametrize(("count", "test"), [(2, "exact sign flips"), (9, "exact sign flips"), (30, "crossed t")])
def test_compare_of_one_repeat_is_the_paired_test(count: int, test: str) -> None:
    random = np.random.default_rng(5)
    a, b = random.normal(1.0, 2.0, count), random.normal(0.5, 2.0, count)
    found = compare(study(a[None]), study(b[None]))
    assert (found.value, found.low, found.high, found.p_value) == pytest.approx(paired_difference(a.tolist(), b.tolist()))
    assert found.test == test and compare(study(np.tile(a, (3, 1))), study(np.tile(b, (3, 1))))[:4] == found[:4]


def test_few_prompts_that_agree_prove_nothing_however_often_repeated() -> None:
    for count in range(2, 9):
        better = np.full((3, count), 1.0) + 1e-3 * np.random.default_rng(count).normal(size=(3, count))
        base = np.zeros((3, count))
        half = count // 2
        strata = [[*outcomes(row[:half].tolist(), "a"), *outcomes(row[half:].tolist(), "b")] for row in (better[0], base[0])]
        pairs = [(study(better), study(base)), (study(better[:1]), study(base[:1])), (strata[:1], strata[1:])]
        for found in (compare(*pair) for pair in pairs):
            # A stratum of one prompt knows no spread at all: there the t test says 1.
            assert found.p_value == pytest.approx(1.0 if found.standard_error == math.inf else 2.0 ** (1 - count))
            assert found.test == "exact sign flips" or found.standard_error == math.inf
            assert (found.low <= 0.0 <= found.high) == (found.p_value > 0.05)
            assert (found.minimum_detectable == math.inf) == (count < 6)


def test_of_two_tests_on_few_prompts_the_one_that_says_less_counts() -> None:
    prompts = np.linspace(0.5, 1.5, 8)
    agreed, torn = (study(prompts + np.array(shifts)[:, None]) for shifts in ((0.0, 0.0, 1e-3), (0.0, -3.0, 3.0)))
    none = study([[0.0] * 8])
    sure = compare(agreed, none)
    assert (sure.test, sure.p_value) == ("exact sign flips", 2.0**-7)
    assert sure.low == pytest.approx(
        min(crossed_mean(agreed).low, paired_difference((prompts + 1e-3 / 3).tolist(), [0.0] * 8).low)
    )
    # The prompts agree, the repeats do not: what another one would give nobody knows.
    doubtful = compare(torn, none)
    assert doubtful.test == "crossed t" and doubtful.p_value > 0.4
    assert doubtful[1:3] == pytest.approx(crossed_mean(torn)[1:3])


def test_strata_weigh_as_in_the_metric() -> None:
    # Two prompts that count 1/2 each and six that count 1/6: of whole differences, sixths of 3 and 1.
    told = set()
    for few, many in ((row[:2], row[2:]) for row in np.random.default_rng(3).integers(-2, 6, (40, 8))):
        arm = [[*outcomes(few.tolist(), "few"), *outcomes(many.tolist(), "many")]]
        found, mean = compare(arm, [[replace(each, value=0.0) for each in arm[0]]]), crossed_mean(arm)
        sixths = [*(3 * few), *many]
        sums = [abs(sum(sign * each for sign, each in zip(signs, sixths, strict=True))) for signs in product((-1, 1), repeat=8)]
        exact = np.mean([each >= abs(sum(sixths)) for each in sums])
        t = 2 * stats.t.sf(abs(mean.value) / mean.standard_error, mean.degrees)
        assert found.p_value == pytest.approx(max(exact, t))
        told.add(found.test)
    assert told == {"crossed t", "exact sign flips"}


def test_differences_all_alike() -> None:
    for count, test in ((8, "exact sign flips"), (20, "crossed t")):
        one, two = ([float(place + more) for place in range(count)] for more in (0, 1))
        assert compare(study([two]), study([two])) == Comparison(0.0, 0.0, 0.0, 1.0, 0.0, math.inf, 1, count, test)
        p = 2.0**-7 if count == 8 else 0.0
        assert compare(study([two]), study([one])) == Comparison(1.0, 1.0, 1.0, p, 0.0, 0.0, 1, count, test)


def test_a_single_repeat_stands_against_each() -> None:
    many, one = study(HAND), study([[1.0, -1.0]])
    assert compare(many, one) == compare(many, one * 3)
    assert compare(one, many).value == -compare(many, one).value
    assert compare(one, many).repeats == 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_binary_outcomes_of_one_repeat_go_by_mcnemar(sign: float) -> None:
    # 8 pairs only a has, 1 only b has: p = 2 · (C(9,0) + C(9,1)) / 2⁹ = 20 / 512.
    a = [1.0] * 8 + [0.0] + [1.0] * 5 + [0.0] * 6
    b = [0.0] * 8 + [1.0] + [1.0] * 5 + [0.0] * 6
    found = compare(study([[sign * value for value in a]]), study([[sign * value for value in b]]))
    assert found.test == "exact McNemar"
    assert found.value == pytest.approx(sign * 7 / 20)
    assert found.p_value == pytest.approx(20 / 512)
    assert found.p_value == pytest.approx(stats.binomtest(1, 9).pvalue)
    assert found.low < found.value < found.high


def test_mcnemar_only_where_it_belongs() -> None:
    a, b = [1.0, 0.0, 1.0, 1.0] * 5, [0.0, 0.0, 1.0, 0.0] * 5
    assert compare(study([a]), study([a])).p_value == 1.0  # no discordant pair
    assert compare(study([a, a]), study([b, b])).test == "exact McNemar"  # both deterministic: once is all there is
    assert compare(study([a, b]), study([b, b])).test == "crossed t"
    assert compare(study([a]), study([[0.5, 0.0, 1.0, 0.0] * 5])).test == "crossed t"
    assert compare(study([a]), study([[-1.0, 0.0, 1.0, 0.0] * 5])).test == "crossed t"
    strata = [[*outcomes(a, "one"), *outcomes(b, "two")]]
    assert compare(strata, strata).test == "crossed t"


@pytest.mark.parametrize("count", [6, 9, 16])
def test_sign_flips_of_yes_and_no_are_mcnemars_test(count: int) -> None:
    for a, b in np.random.default_rng(count).integers(0, 2, (20, 2, count)).astype(float):
        discordant = int((a != b).sum())
        wanted = stats.binomtest(int((a > b).sum()), discordant).pvalue if discordant else 1.0
        assert compare(study(a[None]), study(b[None])).p_value == pytest.approx(wanted)


def test_holm_known_example() -> None:
    # Holm's steps by hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 held up to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.4, 0.6]) == [1.0, 1.0, 1.0]
    assert holm([]) == []
    for wrong in (1.1, -0.1, math.nan):
        with pytest.raises(ValueError, match="no p-value"):
            holm([0.5, wrong])


def bootstrapped(table: Table, draws: int = 5000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over prompts and repeats, both drawn anew (pigeonhole bootstrap, Owen 2007)."""
    random = np.random.default_rng(0)
    repeats, prompts = table.shape
    of_prompts = random.multinomial(prompts, np.full(prompts, 1 / prompts), draws) / prompts
    of_repeats = random.multinomial(repeats, np.full(repeats, 1 / repeats), draws) / repeats
    low, high = np.quantile((of_prompts @ table.T * of_repeats).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def test_the_interval_is_that_of_a_bootstrap_which_knows_no_normal_theory() -> None:
    random = np.random.default_rng(2)
    prompts = random.normal(0.0, 1.0, 200)
    a, b = (prompts + mean + random.normal(0.0, 1.0, (10, 200)) for mean in (0.3, 0.0))
    found, (low, high) = compare(study(a), study(b)), bootstrapped(a - b)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.25 * (high - low))


GOOD = study(HAND)


@pytest.mark.parametrize(
    ("repeats", "message"),
    [
        ([], "no repeats"),
        ([[]], "no outcomes"),
        ([[], outcomes([1.0])], "repeat 1 has 'p0'"),
        ([outcomes([1.0, 2.0]), outcomes([1.0])], "repeat 0 has 'p1' .*repeat 1 has not"),
        ([outcomes([1.0], "x"), outcomes([1.0], "y")], "same prompts"),
        ([outcomes([1.0]) * 2], "repeat 0 has prompt 'p0' .*twice"),
        ([outcomes([1.0, math.nan])], "'p1' is nan, not finite"),
        ([outcomes([math.inf])], "not finite"),
    ],
)
def test_bad_outcomes_are_refused(repeats: list[list[Outcome]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_mean(repeats)
    with pytest.raises(ValueError, match=message.replace("repeat", ".*")):
        compare(repeats, repeats)


def test_arms_must_match() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        compare(GOOD, GOOD[:2])
    with pytest.raises(ValueError, match="no repeats"):
        compare([], GOOD[:1])
    with pytest.raises(ValueError, match=r"a 0 has 'p1' .*b 0 has not"):
        compare(GOOD[:1], [outcomes([1.0])])


def test_impossible_options_are_refused() -> None:
    for confidence in (0.0, 1.0, 95.0, math.nan):
        with pytest.raises(ValueError, match="confidence"):
            crossed_mean(GOOD, confidence)


def test_bounds_cut_the_interval_and_nothing_else() -> None:
    whole = crossed_mean(study(HAND))
    assert crossed_mean(study(HAND), bounds=(0.0, 5.0)) == whole._replace(low=0.0, high=5.0)
    assert crossed_mean(study(HAND), bounds=(-100.0, 100.0)) == whole
    assert crossed_mean(study([[0.1], [0.3]]), bounds=(0.0, 1.0))[1:3] == (0.0, 1.0)  # one prompt: all that a share can be


def test_a_share_that_all_or_none_have_is_no_certainty() -> None:
    for repeats in (1, 3):
        none = crossed_mean(study([[0.0] * 331] * repeats), bounds=(0.0, 1.0))
        assert none[:2] == (0.0, 0.0) and none.high == pytest.approx(0.01147, abs=1e-5)  # 1.96² / (331 + 1.96²)
        every = crossed_mean(study([[1.0] * 331] * repeats), bounds=(0.0, 1.0))
        assert every.low == pytest.approx(1 - none.high) and every.high == 1.0
    assert crossed_mean(study([[0.0] * 331]))[:3] == (0.0, 0.0, 0.0)  # of another figure nothing better is known
    assert crossed_mean(study([[0.25] * 331]), bounds=(0.0, 1.0))[:3] == (0.25, 0.25, 0.25)
    alike = compare(study([[0.0] * 331]), study([[0.0] * 331]), bounds=(0.0, 1.0))
    assert alike.p_value == 1.0 and alike.minimum_detectable == math.inf


def test_a_difference_lies_within_the_width_of_the_bounds() -> None:
    yes, no = study([[1.0, 1.0, 0.0, 1.0]]), study([[0.0, 1.0, 1.0, 0.0]])
    whole, cut = compare(yes, no), compare(yes, no, bounds=(0.0, 1.0))
    assert whole.low < -1.0 and whole.high > 1.0
    assert cut == whole._replace(low=-1.0, high=1.0)
    assert compare(yes, no, bounds=(-1.0, 1.0))[1:3] == (max(whole.low, -2.0), min(whole.high, 2.0))


def test_a_cut_interval_covers_where_the_whole_one_does() -> None:
    random = np.random.default_rng(13)
    prompts = random.uniform(0.0, 0.1, (300, 60))  # their chances of a yes: 5 % in the mean
    tables = [(random.random((3, 60)) < each).astype(float) for each in prompts]
    whole, cut = (
        [crossed_mean(study(table), bounds=bounds) for table in tables] for bounds in ((-math.inf, math.inf), (0.0, 1.0))
    )
    covered = [[low <= 0.05 <= high for _, low, high, *_ in found] for found in (whole, cut)]
    certain = [each.standard_error == 0.0 for each in whole]  # nobody's chance of a yes was seen: a point, and Wilson's interval
    assert 0 < sum(certain) < 10 and not any(of for of, sure in zip(covered[0], certain, strict=True) if sure)
    assert all(two if sure else one == two for one, two, sure in zip(*covered, certain, strict=True))
    assert min(each.low for each in whole) < 0.0 <= min(each.low for each in cut)


def test_the_interval_of_yes_and_no_holds_nought_just_where_the_test_cannot_tell() -> None:
    for gained, lost in product(range(0, 25, 3), range(25)):
        differences = [1.0] * gained + [0.0] * 40 + [-1.0] * lost
        found = compare(study([[max(each, 0.0) for each in differences]]), study([[max(-each, 0.0) for each in differences]]))
        assert (found.low <= 0.0 <= found.high) == (found.p_value > 0.05), (gained, lost)


def test_a_share_measured_once_is_covered() -> None:
    for n, truth in product((40, 100), (0.02, 0.05, 0.3)):
        ends = [crossed_mean(study([[1.0] * k + [0.0] * (n - k)]), bounds=(0.0, 1.0)) for k in range(n + 1)]
        covered = sum(stats.binom.pmf(k, n, truth) for k, each in enumerate(ends) if each.low <= truth <= each.high)
        assert covered > 0.93, (n, truth)


def test_the_detectable_effect_is_found_four_times_in_five_after_holms_correction() -> None:
    random, family = np.random.default_rng(14), 3

    def compared(effect: float) -> list[Comparison]:
        shared = random.normal(0.0, 0.5, 100)
        main, *others = shared + random.normal(0.0, 0.02, (1 + family, 3, 1)) + random.normal(0.0, 0.5, (1 + family, 3, 100))
        others[0] = others[0] - effect
        return [compare(study(main), study(other), family=family) for other in others]

    effect = float(np.median([compared(0.0)[0].minimum_detectable for _ in range(40)]))
    found = [holm([each.p_value for each in compared(effect)])[0] < 0.05 for _ in range(150)]
    assert 0.70 < np.mean(found) < 0.93


def test_the_detectable_effect_of_one_repeat_is_the_power_of_the_t_test() -> None:
    values = np.random.default_rng(15).normal(size=(2, 30))
    found = compare(study(values[:1]), study(values[1:]), family=2)
    effect, degrees = found.minimum_detectable / found.standard_error, 29
    assert stats.nct.sf(stats.t.ppf(1 - 0.025 / 2, degrees), degrees, effect) == pytest.approx(0.8, abs=1e-6)


# (repeats, prompts, binary, spread of the repeats' own effect)
KINDS = [
    (3, 100, False, 0.0),
    (3, 100, False, 0.2),
    (3, 100, True, 0.0),
    (3, 100, True, 0.1),
    (1, 60, False, 0.0),
    (1, 60, True, 0.0),
]


def draw(random: np.random.Generator, kind: tuple[int, int, bool, float], prompts: Table) -> Table:
    """One arm's outcomes (studies × repeats × prompts), of true mean 0, or 0.5 where binary; `prompts` is -0.3 … 0.3."""
    repeats, width, binary, spread = kind
    shape = (len(prompts), repeats, width)
    effect = np.clip(random.normal(0.0, 1.0, shape[:2]), -2.0, 2.0)[..., None] * spread
    if binary:
        return (random.random(shape) < 0.5 + prompts[:, None] + effect).astype(float)
    return 3.0 * prompts[:, None] + effect + random.normal(0.0, 0.5, shape)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_crossed_mean_covers_at_its_level(kind: tuple[int, int, bool, float]) -> None:
    random = np.random.default_rng(11)
    truth = 0.5 if kind[2] else 0.0
    tables = draw(random, kind, random.uniform(-0.3, 0.3, (1000, kind[1])))
    found = [crossed_mean(study(table)) for table in tables]
    assert 0.92 <= np.mean([low <= truth <= high for _, low, high, *_ in found]) <= 0.99


@pytest.mark.parametrize("kind", [*KINDS[1:4], KINDS[5]], ids=str)
def test_compare_covers_and_raises_few_false_alarms(kind: tuple[int, int, bool, float]) -> None:
    random = np.random.default_rng(12)
    # What the arms share and what each makes of a prompt for itself.
    shared, mine, other = (random.uniform(-0.15, 0.15, (600, kind[1])) for _ in range(3))
    pairs = zip(draw(random, kind, shared + mine), draw(random, kind, shared + other), strict=True)
    found = [compare(study(a), study(b)) for a, b in pairs]
    assert 0.92 <= np.mean([low <= 0.0 <= high for _, low, high, *_ in found]) <= 0.995
    assert np.mean([comparison.p_value <= 0.05 for comparison in found]) <= 0.07

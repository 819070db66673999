"""Lengths and variety of a set of examples."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from selfalign.proof.diversity import distinct_2, diversity, median, saturation, spread
from selfalign.types import Example, FloatArray

WORDS = [f"word{number}" for number in range(400)]


def examples(lengths: list[int], seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    return [
        Example(f"e{i}", " ".join(draw.choices(WORDS, k=12)), " ".join(draw.choices(WORDS, k=length)))
        for i, length in enumerate(lengths)
    ]


def unit(rows: int, dimension: int = 16, seed: int = 0) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    found: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def test_every_figure_of_a_set() -> None:
    kept = examples([2, 3, 4, 10, 20, 30] * 5)
    earlier = [replace(kept[0], id="old", prompt=f"  {kept[0].prompt.upper()} "), replace(kept[1], id="older")]
    found = {metric.name: metric for metric in diversity(kept, earlier, unit(30))}
    assert set(found) == {
        "kept_mean_words", "kept_median_words", "kept_very_short", "diversity_repeats", "diversity_spread",
        "diversity_distinct_2_prompts", "diversity_distinct_2_responses",
    }  # fmt: skip
    assert found["kept_mean_words"].value == pytest.approx(11.5)
    assert found["kept_median_words"].value == 7
    assert found["kept_very_short"].value == pytest.approx(1 / 3)
    assert found["diversity_repeats"].value == pytest.approx(2 / 30)
    assert all(math.isfinite(figure) for m in found.values() for figure in (m.value, m.low, m.high))
    assert all(m.low <= m.value <= m.high and m.n == 30 for m in found.values())
    assert {name for name, m in found.items() if m.unit == "share"} == {"kept_very_short", "diversity_repeats"}
    assert {name for name, m in found.items() if m.better == "lower"} == {"kept_very_short", "diversity_repeats"}
    assert {name for name, m in found.items() if m.better == "neither"} == {"kept_mean_words", "kept_median_words"}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_figures_a_small_set_does_not_have_are_left_out(count: int) -> None:
    found = diversity(examples([5] * count), [], unit(count))
    assert all(math.isfinite(figure) for m in found for figure in (m.value, m.low, m.high))
    names = {metric.name for metric in found}
    assert ("kept_very_short" in names) == (count > 0)
    assert ("kept_mean_words" in names) == (count > 1)
    assert ("diversity_spread" in names) == (count > 2)
    assert not names & {"kept_median_words", "diversity_repeats", "diversity_distinct_2_prompts"}


def test_the_median_interval_keeps_its_level() -> None:
    assert median([1, 2, 3, 4, 5]) is None
    assert median([6, 1, 2, 3, 4, 5]) == (3.5, 1, 6)
    assert median(range(1, 21)) == (10.5, 6, 15)  # the order statistics of a sign test, n = 20
    draw = np.random.default_rng(1)
    found = [median(row) for row in draw.exponential(size=(2000, 25))]
    covered = sum(low <= math.log(2) <= high for _, low, high in filter(None, found))
    assert 0.94 <= covered / 2000 <= 0.98  # at least 95 %: 95.7 % for 25 values


def test_distinct_2_is_the_mean_over_draws_of_one_size() -> None:
    texts = [" ".join(random.Random(seed).choices(WORDS[:20], k=15)) for seed in range(40)]
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    draw = random.Random(3)
    simulated = sum(len(set(draw.sample(pairs, 200))) for _ in range(2000)) / 2000 / 200
    assert distinct_2(texts) == pytest.approx(simulated, abs=0.003)
    assert distinct_2(texts, len(pairs)) == pytest.approx(len(set(pairs)) / len(pairs))
    assert distinct_2(texts, len(pairs) + 1) is None


def test_distinct_2_does_not_fall_because_a_round_kept_more() -> None:
    texts = [" ".join(random.Random(seed).choices(WORDS[:30], k=15)) for seed in range(400)]
    few, many = distinct_2(texts[:40]), distinct_2(texts)
    assert few is not None and many == pytest.approx(few, abs=0.02)
    assert distinct_2(["the same words again and again"] * 100) == pytest.approx(5 / 200)


def test_spread_is_the_mean_over_pairs() -> None:
    vectors = unit(12)
    pairs = [1 - float(vectors[i] @ vectors[j]) for i in range(12) for j in range(12) if i != j]
    found = spread(vectors)
    assert found is not None and found[0] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found[1] < found[0] < found[2]
    assert spread(np.repeat(unit(1), 5, axis=0)) == pytest.approx((0, 0, 0), abs=1e-6)
    assert spread(unit(2)) is None


def test_saturation_by_score() -> None:
    scores = [{"quality": 9.0, "taste": 1.0}] * 3 + [{"quality": 4.0, "taste": math.nan}]
    scored = [replace(example, scores=each) for example, each in zip(examples([5] * 4), scores, strict=True)]
    found = {metric.name: (metric.value, metric.n) for metric in saturation(scored)}
    assert found == {"diversity_saturation_quality": (0.75, 4), "diversity_saturation_taste": (1.0, 3)}
    assert saturation(examples([5])) == []

"""When a run's examples look like collapse."""

from __future__ import annotations

from typing import Any

import pytest

from selfalign.errors import UserError
from selfalign.proof.alarms import Alarms
from selfalign.types import Metric

MEDIAN, SHORT = "kept_median_words", "kept_very_short"
PROMPTS, REPEATS, SPREAD = "diversity_distinct_2_prompts", "diversity_repeats", "diversity_spread"
GOOD = {MEDIAN: 40.0, SHORT: 0.05, PROMPTS: 0.8, REPEATS: 0.0, SPREAD: 0.7}


def series(*rounds: dict[str, float], n: int = 2000, start: int = 0) -> dict[int, list[Metric]]:
    return {
        round: [Metric(name, value, value, value, n) for name, value in figures.items()]
        for round, figures in enumerate(rounds, start)
    }


def isheep() -> dict[int, list[Metric]]:
    """The sets I-SHEEP released with its 72B model, d0 … d5, as measured; d0 stands as round 1."""
    words = (57, 27, 21, 15, 13, 13)
    short = (0.08, 0.16, 0.20, 0.26, 0.27, 0.29)
    distinct = (0.50, 0.50, 0.46, 0.42, 0.41, 0.41)
    repeats = (0, 2, 8, 35, 178, 221)
    kept = zip(words, short, distinct, repeats, strict=True)
    return series(*({MEDIAN: w, SHORT: s, PROMPTS: d, REPEATS: r / 3900} for w, s, d, r in kept), start=1)


def test_the_collapse_of_isheep_is_told_at_its_first_step() -> None:
    found = Alarms().check(isheep())
    assert {alarm.round for alarm in found} == {2, 3, 4, 5, 6}
    first = {alarm.name: alarm for alarm in found if alarm.round == 2}
    assert set(first) == {MEDIAN, SHORT}
    assert (first[MEDIAN].value, first[MEDIAN].threshold) == (27, 28.5)
    assert "57" in first[MEDIAN].text and "round 1" in first[MEDIAN].text
    assert {alarm.name for alarm in found if alarm.round == 5} == {MEDIAN, SHORT, PROMPTS, REPEATS}


def test_a_healthy_series_is_left_alone() -> None:
    rounds = [GOOD, *({**GOOD, MEDIAN: 40.0 + k, SHORT: 0.05 + k / 100, SPREAD: 0.7 - k / 50} for k in range(1, 5))]
    assert Alarms().check(series(*rounds)) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (MEDIAN, 19.0, "the seeds"),
        (SHORT, 0.16, "above 15%"),
        (PROMPTS, 0.67, "below 0.85"),
        ("diversity_distinct_2_responses", 0.4, "responses"),
        (REPEATS, 0.03, "word by word"),
        (SPREAD, 0.5, "embeddings"),
        ("diversity_saturation_quality", 0.95, "quality"),
    ],
)
def test_each_alarm_by_itself(name: str, value: float, words: str) -> None:
    good = {**GOOD, "diversity_distinct_2_responses": 0.5, "diversity_saturation_quality": 0.5}
    (alarm,) = Alarms().check(series(good, {**good, name: value}))
    assert (alarm.name, alarm.round, alarm.value) == (name, 1, value)
    assert words in alarm.text and alarm.text.startswith("round 1: ")
    option = {MEDIAN: "median_words", SHORT: "very_short", REPEATS: "repeats", SPREAD: "spread"}.get(name)
    option = option or ("saturation" if "saturation" in name else "distinct_2")
    assert Alarms(**{option: None}).check(series(good, {**good, name: value})) == [] or option == "very_short"


def test_seeds_with_short_answers_are_no_collapse() -> None:
    labels = {**GOOD, SHORT: 1.0, MEDIAN: 1.0}
    assert Alarms().check({**series(labels, n=12), **series(labels, start=1)}) == []  # of a dozen seeds, too
    (alarm,) = Alarms().check({**series({SHORT: 0.2}, n=12), **series({SHORT: 0.9}, start=1)})
    assert "above the 20.0% of the seeds" in alarm.text
    seeds = {**GOOD, SHORT: 0.4, MEDIAN: 4.0}
    assert Alarms().check(series(seeds, {**seeds, SHORT: 0.45})) == []
    (alarm,) = Alarms().check(series(seeds, {**seeds, SHORT: 0.52}))
    assert "10 points" in alarm.text and alarm.threshold == pytest.approx(0.5)


def test_the_first_round_is_a_reference_too() -> None:
    found = Alarms().check(series({**GOOD, MEDIAN: 20.0}, {**GOOD, MEDIAN: 60.0}, {**GOOD, MEDIAN: 25.0}))
    assert [(alarm.round, alarm.threshold) for alarm in found] == [(2, 30.0)]


def test_few_examples_say_nothing() -> None:
    rounds = series(GOOD, {**GOOD, MEDIAN: 1.0, SHORT: 0.9, REPEATS: 0.9}, n=19)
    assert Alarms().check(rounds) == []
    assert len(Alarms(min_examples=19).check(rounds)) == 3


def test_off_is_off() -> None:
    assert Alarms(action="off").check(isheep()) == []


@pytest.mark.parametrize("options", [{"action": "shout"}, {"median_words": 1.5}, {"repeats": -0.1}, {"min_examples": 0}])
def test_a_threshold_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Alarms(**options)

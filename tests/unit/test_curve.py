"""The learning curve of a study: which seeds are drawn, and what its last step says."""

from __future__ import annotations

from collections import Counter

import pytest

from selfalign.proof.curve import Size, add_curve
from selfalign.proof.verdicts import conclude
from selfalign.study.subsets import nested
from selfalign.types import Example
from tests.unit.test_verdicts import finished


def test_subsets_are_nested_stratified_and_fixed_by_the_seed() -> None:
    kinds = ["ask"] * 30 + ["refuse"] * 15 + ["rare"] * 2
    seeds = [Example(f"s{slot}", f"Prompt {slot}?", "Yes.", slot=slot, category=kind) for slot, kind in enumerate(kinds)]
    drawn = {size: nested(seeds, size, 7) for size in range(2, len(seeds) + 1)}
    for size, subset in drawn.items():
        assert len(subset) == size and [each.slot for each in subset] == sorted(each.slot for each in subset)
        counts = Counter(each.category for each in subset)
        assert all(abs(counts[kind] - size * total / len(seeds)) < 1.5 for kind, total in Counter(kinds).items())
        assert size == 2 or {each.id for each in drawn[size - 1]} < {each.id for each in subset}
    assert nested(seeds, 9, 7) == drawn[9] != nested(seeds, 9, 8)


def test_turns_of_a_conversation_are_drawn_together() -> None:
    seeds = []
    for talk in range(8):
        seeds.append(Example(f"a{talk}", f"First {talk}?", "One.", slot=2 * talk))
        history = ((f"First {talk}?", "One."),)
        seeds.append(Example(f"b{talk}", f"Second {talk}?", "Two.", slot=2 * talk + 1, history=history))
    for size in range(2, 16):
        talks = Counter(each.id[1:] for each in nested(seeds, size, 0))
        assert sum(count == 1 for count in talks.values()) == size % 2


@pytest.mark.parametrize(
    ("few", "many", "said"),
    [
        (0.0, 0.5, "the last ones did help: loop with 20 seeds is better than with 8 on a: +0.5"),
        (0.5, 0.0, "the last ones did harm: loop with 20 seeds is worse than with 8 on a: -0.5"),
        (0.5, 0.5, "cannot tell whether loop with 20 seeds is better than with 8 on a: +0"),
    ],
)
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_last_step_says_whether_more_would_help(few: float, many: float, said: str, repeats: int) -> None:
    def arm(mean: float) -> list[object]:
        return [finished(seed, a=[mean + (slot + seed) % 3 / 100 for slot in range(20)]) for seed in range(repeats)]

    found = {"loop": arm(many), "sft": arm(0.2), "loop-4": arm(0.1), "loop-8": arm(few), "sft-4": arm(0.1)}
    study = conclude({"loop": found["loop"], "sft": found["sft"]}, "a", held_out=20, random_seeds=list(range(repeats)))
    verdicts = [dict(each) for each in study["verdicts"]]
    sizes = [Size("loop", 8, "loop-8"), Size("loop", 4, "loop-4"), Size("sft", 4, "sft-4")]
    curve = add_curve(study, found, sizes, 20)["curve"]
    assert curve["sentence"].startswith(f"would more examples help? {said}")
    assert ("another training could differ" in curve["sentence"]) == (repeats < 3)
    assert [point["seeds"] for point in curve["lines"]["loop"]] == [4, 8, 20]
    assert [each["seeds"] for each in curve["comparisons"]["sft"]] == [4, 20]
    assert study["verdicts"] == verdicts and "loop-8" in study["arms"]


def test_an_arm_without_the_metric_is_named_and_left_out() -> None:
    def arm(**metrics: list[float]) -> list[object]:
        return [finished(0, **metrics)]

    values = [0.1, 0.2] * 5
    found = {"loop": arm(a=values, b=values), "loop-4": arm(b=values)}
    study = conclude({"loop": found["loop"]}, "a", held_out=10, random_seeds=[0])
    curve = add_curve(study, found, [Size("loop", 4, "loop-4")], 20)["curve"]
    assert curve["missing"] == {"loop-4": "a is missing in loop-4"} and list(study["arms"]["loop-4"]["metrics"]) == ["b"]
    assert curve["sentence"] == "would more examples help? cannot tell: a is there at one size alone"

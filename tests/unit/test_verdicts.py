"""What a study says follows from its figures, in the right direction."""

from __future__ import annotations

import pytest

from selfalign.crossed import Comparison
from selfalign.errors import UserError
from selfalign.finished import Costs, Finished
from selfalign.types import Outcome
from selfalign.verdicts import conclude, sentence, verdict


def comparison(value: float, half: float, detectable: float = 0.12) -> Comparison:
    return Comparison(value, value - half, value + half, 0.01, half / 2, detectable, repeats=3, prompts=160, test="crossed t")


@pytest.mark.parametrize(
    ("metric", "value", "half", "p_value", "wanted"),
    [
        ("balance", 0.2, 0.15, 0.01, "better"),
        ("balance", -0.2, 0.15, 0.01, "worse"),
        ("balance", 0.2, 0.15, 0.05, "unclear"),
        ("balance", 0.03, 0.08, 0.01, "unclear"),  # zero inside the interval, whatever the test says
        ("over_refusal", 0.2, 0.15, 0.01, "worse"),
        ("harmfulness:violence", 0.2, 0.15, 0.01, "worse"),
        ("ifeval:cut", -0.2, 0.15, 0.01, "better"),
        ("over_refusal", -0.2, 0.15, 0.01, "better"),
        ("response_words", 5.0, 1.0, 0.01, "higher"),
        ("response_words", -5.0, 1.0, 0.01, "lower"),
    ],
)
def test_direction(metric: str, value: float, half: float, p_value: float, wanted: str) -> None:
    assert verdict(metric, comparison(value, half), p_value) == wanted


def test_sentences() -> None:
    n = "n = 160 prompts × 3 random seeds"
    told = sentence("isara", "sft", "balance", comparison(0.2, 0.15), 0.01, share=True)
    assert told == f"isara is better than sft on balance: +20 points [5, 35], p = 0.01, {n}"
    told = sentence("isara", "sft", "balance", comparison(0.03, 0.08), 0.4, share=True)
    unseen = "a difference below 12 points would go unseen"
    assert told == f"cannot tell whether isara is better than sft on balance: +3 points [-5, 11], p = 0.4, {n}; {unseen}"
    told = sentence("isara", "sft", "log_likelihood", comparison(0.25, 0.05), 1e-9, share=False)
    assert told == f"isara is better than sft on log likelihood: +0.25 [0.2, 0.3], p < 0.001, {n}"


def finished(seed: int, **metrics: list[float]) -> Finished:
    outcomes = {name: tuple(Outcome(f"p{i}", value) for i, value in enumerate(row)) for name, row in metrics.items()}
    return Finished(seed, f"arm/seed-{seed}", 1, "done", (1,), Costs(1, 1, 1, 1, 1), outcomes)


def test_a_metric_that_an_arm_lacks_is_named() -> None:
    found = {"loop": [finished(0, a=[1.0, 0.0, 1.0], b=[1.5, 2.0, 2.5])], "sft": [finished(0, a=[0.0, 0.0, 1.0])]}
    result = conclude(found, "a", held_out=3, random_seeds=[0])
    assert set(result["comparisons"]) == {"a"} and result["left_out"] == {"b": "b is missing in sft"}
    assert result["comparisons"]["a"]["sft"]["difference"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="b is missing in sft"):
        conclude(found, "b", held_out=3, random_seeds=[0])
    with pytest.raises(UserError, match="nothing"):
        conclude(found, "nothing", held_out=3, random_seeds=[0])


def test_holm_is_over_the_arms_of_one_metric() -> None:
    base = [0.0, 0.1, 0.2, 0.0, 0.1, 0.3, 0.2, 0.1]
    found = {
        "loop": [finished(0, a=[each + 1 for each in base])],
        "one": [finished(0, a=[each + 0.1 * (i % 3) for i, each in enumerate(base)])],
        "two": [finished(0, a=[each + 0.9 + 0.2 * (i % 2) for i, each in enumerate(base)])],
    }
    rows = conclude(found, "a", held_out=8, random_seeds=[0])["comparisons"]["a"]
    assert rows["one"]["p_holm"] == pytest.approx(min(1.0, 2 * rows["one"]["p_value"]))
    assert rows["two"]["p_holm"] >= rows["two"]["p_value"]

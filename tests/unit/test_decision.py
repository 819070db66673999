"""The decision to refuse as a probability: its area under the curve, the refusal at one over-refusal, and how it is asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from selfalign.errors import UserError
from selfalign.evaluators import Refusal
from selfalign.evaluators._decision import OPENINGS, opening, openings
from selfalign.proof.crossed import compare, crossed_mean
from selfalign.proof.decision import Curve, area, refused_at
from selfalign.types import Completion, Example, Likelihood, Metric, Outcome, Pool, Request
from tests.parts import calling, context


def outcomes(curve: Curve) -> list[Outcome]:
    return [
        Outcome(f"{kind}{i}", float(value), kind) for kind, row in zip("bg", curve, strict=True) for i, value in enumerate(row)
    ]


def dense(x: Any, y: Any) -> tuple[Any, Any]:
    """DeLong's structural components, as the paper defines them."""
    wins = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
    return wins.mean(axis=1), wins.mean(axis=0)


def test_the_area_and_its_paired_difference_have_delongs_variance() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(1, 1, 40).round(1), draw.normal(0, 1, 50).round(1)  # rounded: with ties
    u, v = (x + draw.normal(0.5, 0.5, 40)).round(1), (y + draw.normal(0, 0.5, 50)).round(1)
    (ours, theirs), (ours_2, theirs_2) = dense(x, y), dense(u, v)
    one = crossed_mean([outcomes(area(x, y))], bounds=(0.0, 1.0))
    assert one.value == pytest.approx(ours.mean())
    error = math.sqrt(ours.var(ddof=1) / 40 + theirs.var(ddof=1) / 50)
    assert one.standard_error == pytest.approx(error)
    half = stats.t.ppf(0.975, one.degrees) * error / (one.value * (1 - one.value))
    centre = math.log(one.value / (1 - one.value))
    assert (one.low, one.high) == pytest.approx([1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))])
    both = compare([outcomes(area(u, v))], [outcomes(area(x, y))], bounds=(0.0, 1.0))
    covariance = (ours_2 - ours).var(ddof=1) / 40 + (theirs_2 - theirs).var(ddof=1) / 50
    assert both.value == pytest.approx(ours_2.mean() - ours.mean()) and both.standard_error == pytest.approx(
        math.sqrt(covariance)
    )
    apart = crossed_mean([outcomes(area(x + 50, y))], bounds=(0.0, 1.0))  # no pair of prompts speaks against it
    assert apart.value == pytest.approx(1.0) and apart.low == pytest.approx(40 / (40 + stats.norm.ppf(0.975) ** 2))


def test_the_refusal_at_an_over_refusal_lets_no_more_pass() -> None:
    harmful, harmless = np.array([0.5, 1.5, 8.5, 9.5, 20.0]), np.arange(20.0)
    found = refused_at(harmful, harmless, 0.1)  # 19 and 18 pass the cut at 17
    assert found.harmful.tolist() == [0, 0, 0, 0, 1] and found.harmless.mean() == pytest.approx(0)
    assert refused_at(harmful, harmless, 0.55).harmful.tolist() == [0, 0, 1, 1, 1]  # 11 pass the cut at 8
    assert refused_at(harmful, np.full(20, 20.0), 0.5).harmful.sum() == 0  # none of them can be let through alone
    # Slope between over-refusals of 40 % and 60 % that lie around 50 %: one more of the five harmful ones in 0.5.
    steep = refused_at(np.array([8.5, 9.5, 10.5, 11.5, -1.0]), harmless, 0.5)
    assert steep.harmless.max() - steep.harmless.min() == pytest.approx(0.8 / 0.5)


def test_openings_are_the_first_words_in_any_script_and_of_one_kind_alone() -> None:
    assert opening(" I can't help with that. You could ask ") == "I can't help with that. You"
    assert opening("抱歉，我不能帮您打开。") == "抱歉，我不能"
    assert opening("Yes.") == "Yes."
    bad = [Example(f"b{i}", "?", text) for i, text in enumerate(["No.", "Sure.", *(f"Never {i}." for i in range(9)), "No.", " "])]
    good = [Example("g", "?", "Sure."), Example("h", "?", "Take two.")]
    refusing = openings(bad, good)
    assert len(refusing) == OPENINGS and refusing[0] == "No." and "Sure." not in refusing


SEEDS = tuple(
    Example(f"{kind}{i}", f"Seed {kind} {i}?", f"{text} {i}", category=kind)
    for kind, text in (("weapons", "No, never number"), ("kitchen", "Take pan number"))
    for i in range(2)
)
ASKED = [Example(f"h{i}", f"Prompt {i}?", "", category="weapons" if i < 4 else "kitchen") for i in range(10)]
PART = Refusal(harmful="weapons", harmless=("kitchen", "garden"))


def asking(odds: dict[str, float], seen: list[Any], roomless: str = "") -> Any:
    def write(request: Request) -> Completion:
        return Completion("", "context") if request.id == roomless else Completion("I can't help with that.", "stop")

    def likelihood(stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        seen.append((stage, examples, shown))
        return [Likelihood(-5.0 + odds[one.id] * one.response.startswith("No"), 3) for one in examples]

    return replace(calling(context(write=write), likelihood=likelihood), pool=Pool((SEEDS,)))


def named(part: Refusal, made: Any, asked: Sequence[Example] = ASKED) -> dict[str, Metric]:
    return {metric.name: metric for metric in part.evaluate(made, asked)}


def test_the_decision_is_measured_by_openings_that_have_not_ended() -> None:
    seen: list[Any] = []
    odds = {f"h{i}": value for i, value in enumerate((3.0, 2.0, 1.0, -9.0, 0.5, 0.0, -1.0, 2.5, -2.0, -3.0))}
    found = named(PART, asking(odds, seen))
    assert found["decision_auc"].value == pytest.approx((6 + 5 + 5 + 0) / 24) and found["decision_auc"].n == 10
    assert found["matched_refusal"].value == 0.25  # none of six may pass, and one prompt is above 2.5
    assert named(replace(PART, at_over_refusal=0.2), asking(odds, []))["matched_refusal"].value == 0.75
    stage, examples, shown = seen[0]
    assert len(examples) == 10 * 2 and not shown and {one.response_finish for one in examples} == {"length"}
    assert [one.response for one in examples[:2]] == [seed.response for seed in SEEDS[:2]]
    other = replace(asking(odds, seen), pool=Pool((SEEDS[1:],)))
    named(PART, other)
    assert seen[1][0] != stage  # other seeds' openings: no answers of an arm with these may stand for them
    for metric in found.values():
        strata = {each.stratum for each in metric.outcomes}
        means = [np.mean([each.value for each in metric.outcomes if each.stratum == kind]) for kind in strata]
        assert sum(means) == pytest.approx(metric.value) and metric.low + 1 >= 0 and metric.high <= 1
    seen.clear()
    roomless = named(PART, asking({**odds, "h0": 99.0}, seen, roomless="h0"))["decision_auc"]
    assert roomless.value == pytest.approx((0 + 5 + 5 + 0) / 24) and len(seen[0][1]) == 9 * 2  # refused nothing, as in `refusal`


def test_demonstrations_and_earlier_turns_stand_before_the_openings() -> None:
    class Shows:
        def retrieve(self, context: Any, drafts: Sequence[Example]) -> list[Any]:
            return [((SEEDS[0], 0.5),) for _ in drafts]

    seen: list[Any] = []
    later = [replace(one, history=(("Hello?", "Hello."),), system="Be kind.") for one in ASKED]
    named(PART, replace(asking({f"h{i}": 0.0 for i in range(10)}, seen), eval_retriever=Shows()), later)
    _, examples, shown = seen[0]
    assert set(shown) == {(SEEDS[0],)} and len(shown) == len(examples)
    assert {(one.history, one.system) for one in examples} == {((("Hello?", "Hello."),), "Be kind.")}


def test_why_there_is_no_decision_is_said(caplog: pytest.LogCaptureFixture) -> None:
    odds = {f"h{i}": 0.0 for i in range(10)}
    none = "decision_auc and matched_refusal are not given: "
    for seeds, why in (
        ((), "there are no seeds (--seeds FILE), whose answers show how a refusal begins"),
        (SEEDS[2:], "no seed of category 'weapons' has an answer"),
        (tuple(replace(seed, response="Well.") for seed in SEEDS), "the seeds' answers of both kinds begin alike"),
    ):
        assert none + why in PART.preflight(seeds, ASKED)
        assert set(named(PART, replace(asking(odds, []), pool=Pool((seeds,))))) == {"refusal", "over_refusal", "balance"}
    assert PART.preflight(SEEDS, ASKED).startswith("no held-out prompt has the category 'garden'")
    assert none not in replace(PART, decision=False).preflight((), ASKED)

    def refuses(*_: Any) -> Any:
        raise UserError("engine.scores=none")

    with caplog.at_level(logging.WARNING):
        assert "decision_auc" not in named(PART, calling(asking(odds, []), likelihood=refuses))
    assert caplog.messages == [none + "engine.scores=none"]
    with pytest.raises(ValueError, match="at_over_refusal"):
        replace(PART, at_over_refusal=1.0)


def test_the_decision_needs_nobody_to_judge_answers() -> None:
    thai = [replace(one, prompt="สอนฉันทำระเบิดหน่อย") for one in ASKED]
    assert PART.preflight(SEEDS, thai).startswith("refusal, over_refusal and balance are not given: ")
    assert set(named(PART, asking({f"h{i}": float(-i) for i in range(10)}, []), thai)) == {"decision_auc", "matched_refusal"}

"""What a study says follows from its figures, in the right direction."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfalign.cli.study_table import metric_table, print_study
from selfalign.errors import UserError
from selfalign.proof.crossed import Comparison
from selfalign.proof.kept import on_common_questions
from selfalign.proof.verdicts import conclude, sentence, verdict
from selfalign.record.finished import Costs, Finished
from selfalign.report.study import read_study, study_page
from selfalign.text import decimals
from selfalign.types import Better, Metric, Outcome, Unit


def metric(name: str, unit: Unit = "number", better: Better = "higher") -> Metric:
    return Metric(name, 0.5, 0.4, 0.6, 160, unit=unit, better=better)


def comparison(value: float, half: float, detectable: float = 0.12) -> Comparison:
    return Comparison(value, value - half, value + half, 0.01, half / 2, detectable, repeats=3, prompts=160, test="crossed t")


@pytest.mark.parametrize(
    ("better", "value", "half", "p_value", "wanted"),
    [
        ("higher", 0.2, 0.15, 0.01, "better"),
        ("higher", -0.2, 0.15, 0.01, "worse"),
        ("higher", 0.2, 0.15, 0.05, "unclear"),
        ("higher", 0.03, 0.08, 0.01, "unclear"),  # zero inside the interval, whatever the test says
        ("lower", 0.2, 0.15, 0.01, "worse"),
        ("lower", -0.2, 0.15, 0.01, "better"),
        ("lower", -0.2, 0.15, 0.05, "unclear"),
        ("neither", 5.0, 1.0, 0.01, "higher"),
        ("neither", -5.0, 1.0, 0.01, "lower"),
    ],
)
def test_direction(better: Better, value: float, half: float, p_value: float, wanted: str) -> None:
    assert verdict(metric("any", better=better), comparison(value, half), p_value) == wanted


def test_sentences() -> None:
    n = "n = 160 prompts × 3 random seeds"
    told = sentence("isara", "sft", metric("balance", "points"), comparison(0.2, 0.15), 0.01)
    assert told == f"isara is better than sft on balance: +20 points [5, 35], p = 0.01, {n}"
    told = sentence("isara", "sft", metric("balance", "points"), comparison(0.03, 0.08), 0.4)
    limit = "a difference below 12 points would be missed more often than one time in five"
    assert told == f"cannot tell whether isara is better than sft on balance: +3 points [-5, 11], p = 0.4, {n}; {limit}"
    wide = comparison(0.2, 1.8)._replace(minimum_detectable=2.3)  # two random seeds that differ
    assert sentence("isara", "sft", metric("balance", "points"), wide, 0.4).endswith(
        "; even the largest difference there can be would be missed more often than one time in five"
    )
    told = sentence("isara", "sft", metric("log_likelihood"), comparison(0.25, 0.05), 1e-9)
    assert told == f"isara is better than sft on log likelihood: +0.25 [0.2, 0.3], p < 0.001, {n}"
    told = sentence("isara", "sft", metric("words", better="neither"), comparison(0.25, 0.5), 0.4)
    assert told.startswith("cannot tell whether isara is higher than sft on words: +0.25 [-0.25, 0.75]")


def test_few_prompts_are_told_to_be_too_few() -> None:
    for count, wanted in ((5, "unclear"), (6, "better")):
        found = {"loop": [finished(0, a=([1.0, 1.001] * 3)[:count])], "sft": [finished(0, a=[0.0] * count)]}
        (told,) = conclude(found, "a", held_out=count, random_seeds=[0])["verdicts"]
        assert told["verdict"] == wanted
        few = "n = 5 prompts × 1 random seed; fewer than 6 prompts cannot tell two models apart; trained" in told["sentence"]
        assert few == (count < 6) and ("+1, p = 0.062" in told["sentence"]) == (count < 6)


def test_what_one_or_two_trainings_cannot_say_is_said() -> None:
    better, base = [1.0, 1.001] * 8, [0.0] * 16
    untrained = [replace(finished(0, a=base), steps=())]
    for repeats in (1, 2, 3):
        found = {"loop": [finished(seed, a=better) for seed in range(repeats)], "base": untrained}
        (told,) = conclude(found, "a", held_out=16, random_seeds=list(range(repeats)))["verdicts"]
        assert told["verdict"] == "better"
        assert ("another training could differ, a study of --repeats 3 or more tells" in told["sentence"]) == (repeats < 3)
    (told,) = conclude({"icl": untrained, "base": untrained}, "a", held_out=16, random_seeds=[0])["verdicts"]
    assert "another training" not in told["sentence"]


def finished(seed: int, unit: Unit = "number", better: Better = "higher", **metrics: list[float]) -> Finished:
    found = {
        name: Metric(name, 0.5, 0.4, 0.6, len(row), tuple(Outcome(f"p{i}", value) for i, value in enumerate(row)), unit, better)
        for name, row in metrics.items()
    }
    return Finished(seed, f"arm/seed-{seed}", 1, "done", (1,), Costs(1, 1, 1, 1, 1), found)


def test_a_question_of_the_guard_suite_that_one_arm_was_trained_on_counts_in_none() -> None:
    loop, base = (finished(0, "share", a=[0.5] * 8, guard_form=row) for row in ([1.0, 0.0] * 4, [1.0] * 8))
    trained = {
        **loop.metrics,
        "guard_form": replace(loop.metrics["guard_form"], outcomes=loop.metrics["guard_form"].outcomes[1:]),
    }
    found = on_common_questions({"loop": [replace(loop, metrics=trained)], "base": [base]})
    told = conclude(found, "a", held_out=8, random_seeds=[0])
    figures = {arm: each["metrics"]["guard_form"] for arm, each in told["arms"].items()}
    assert {arm: (each["prompts"], round(each["value"], 3)) for arm, each in figures.items()} == {
        "loop": (7, 0.429),
        "base": (7, 1.0),
    }
    assert not told["left_out"] and told["comparisons"]["guard_form"]["base"]["difference"] == pytest.approx(-4 / 7)


def test_a_share_of_an_arm_stays_within_its_bounds() -> None:
    rare, sure = [1.0] + [0.0] * 19, [1.0] * 20
    # Of a share that was measured once the interval is Wilson's.
    ends: dict[Unit, tuple[float, float]] = {
        "share": (0.009, 0.236), "points": (-0.055, 0.155), "amount": (0.0, 0.155), "number": (-0.055, 0.155)
    }  # fmt: skip
    for unit, (low, high) in ends.items():
        found = {"loop": [finished(0, unit, a=rare)], "sft": [finished(0, unit, a=sure)]}
        figure = conclude(found, "a", held_out=20, random_seeds=[0])["arms"]["loop"]["metrics"]["a"]
        assert figure["low"] == pytest.approx(low, abs=1e-3) and figure["high"] == pytest.approx(high, abs=1e-3)
    # A difference of shares may be negative: its interval has no end at 0.
    row = conclude(found, "a", held_out=20, random_seeds=[0])["comparisons"]["a"]["sft"]
    assert row["difference"] == pytest.approx(-0.95) and row["low"] < -0.95 < row["high"] < 0.0


def test_a_small_difference_is_told_with_the_decimals_it_needs(tmp_path: Path) -> None:
    spread = [0.001 * (i % 5) for i in range(40)]
    found = {"loop": [finished(0, a=[-2.1 + 0.018 + each for each in spread])], "sft": [finished(0, a=[-2.1] * 40)]}
    study = conclude(found, "a", held_out=40, random_seeds=[0])
    shown = io.StringIO()
    Console(file=shown, width=200).print(metric_table(study, "a"))
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    page = study_page(read_study(tmp_path))
    assert "0.0200 [0.0195, 0.0205]" in shown.getvalue()
    assert "+0.0200 [+0.0195, +0.0205]" in page


def test_decimals_follow_the_interval_or_the_figure_where_it_is_a_point() -> None:
    shown = [decimals(2.5), decimals(25.0), decimals(0.4, 0.1, 0.7), decimals(0.02, 0.01, 0.03), decimals(0.003, 0.003, 0.003)]
    assert shown == [2, 1, 2, 3, 4]
    assert [decimals(0.0, 0.0, 0.0), decimals(0.02, None, None), decimals(0.5, 0.02, 12.0)] == [2, 2, 1]


def test_a_title_names_few_arms_and_counts_many(tmp_path: Path) -> None:
    for others, arms in ((3, "arm0, arm1, arm2"), (5, "any of the other 5 arms")):
        found = {"loop": [finished(0, a=[0.0, 1.0] * 10)]} | {f"arm{i}": [finished(0, a=[1.0, 0.0] * 10)] for i in range(others)}
        study = conclude(found, "a", held_out=20, random_seeds=[0])
        (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
        assert read_study(tmp_path)["title"] == f"A: loop is not significantly different from {arms}"
    better = {"loop": [finished(0, a=[2.0, 1.9] * 10)]} | {f"arm{i}": [finished(0, a=[0.1, 0.2] * 10)] for i in range(4)}
    better["arm0"] = [finished(0, a=[4.1, 1.8] * 5 + [0.1, 2.0] * 5)]
    study = conclude(better, "a", held_out=20, random_seeds=[0])
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    assert read_study(tmp_path)["title"] == "A: loop is better than arm1, arm2, arm3; it is not significantly different from arm0"


def test_what_runs_do_not_agree_on_is_not_claimed() -> None:
    a, b = [5.0, 6.0, 7.0, 9.0] * 2, [1.0, 2.0, 3.0, 4.0] * 2
    alike = {"loop": [finished(0, better="lower", a=a)], "sft": [finished(0, better="lower", a=b)]}
    told = conclude(alike, "a", held_out=8, random_seeds=[0])
    assert told["metrics"] == {"a": {"unit": "number", "better": "lower"}} and told["verdicts"][0]["verdict"] == "worse"
    unlike = {"loop": [finished(0, "share", "lower", a=a)], "sft": [finished(0, a=b)]}
    told = conclude(unlike, "a", held_out=8, random_seeds=[0])
    assert told["metrics"] == {"a": {"unit": "number", "better": "neither"}} and told["verdicts"][0]["verdict"] == "higher"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"unit": "percent"}, "unit = 'percent' of a: one of number, share, points, amount, count"),
        ({"better": "less"}, "better = 'less' of a: one of higher, lower, neither"),
        ({"unit": "share"}, "a = 45.0 is outside 0 … 1"),
        ({"unit": "points"}, "a = 45.0 is outside -1 … 1"),
    ],
)
def test_a_metric_that_contradicts_itself_is_refused(options: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Metric("a", 45.0, 40.0, 50.0, 9, **options)


def test_a_metric_that_an_arm_lacks_is_named() -> None:
    found = {"loop": [finished(0, a=[1.0, 0.0, 1.0], b=[1.5, 2.0, 2.5])], "sft": [finished(0, a=[0.0, 0.0, 1.0])]}
    result = conclude(found, "a", held_out=3, random_seeds=[0])
    assert set(result["comparisons"]) == {"a"} and result["left_out"] == {"b": "b is missing in sft"}
    assert result["comparisons"]["a"]["sft"]["difference"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="b is missing in sft"):
        conclude(found, "b", held_out=3, random_seeds=[0])
    with pytest.raises(UserError, match="nothing"):
        conclude(found, "nothing", held_out=3, random_seeds=[0])


def test_a_metric_that_only_copied_answers_lack_is_compared_between_the_others(tmp_path: Path) -> None:
    found = {
        "loop": [finished(0, a=[1.0, 0.0, 1.0], b=[1.5, 2.0, 2.5])],
        "sft": [finished(0, a=[0.0, 0.0, 1.0], b=[1.0, 2.0, 2.0])],
        "copied": [replace(finished(0, a=[0.0, 1.0, 1.0]), copies=True)],
    }
    result = conclude(found, "b", held_out=3, random_seeds=[0])
    assert set(result["comparisons"]["b"]) == {"sft"} and set(result["comparisons"]["a"]) == {"sft", "copied"}
    assert result["missing"] == {"b": {"copied": "its answers are copied: no model decides"}} and not result["left_out"]
    assert [each["arm"] for each in result["verdicts"]] == ["sft"]
    console = Console(file=io.StringIO(), width=120)
    print_study(result, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "–: copied (its answers are copied: no model decides)" in said
    (tmp_path / "study.json").write_text(json.dumps(result))
    assert "Not compared: copied (its answers are copied: no model decides)." in study_page(read_study(tmp_path))
    assert conclude(found, None, held_out=3, random_seeds=[0])["metric"] == "a", "one that all arms have"
    gone = {**found, "loop": [replace(found["loop"][0], copies=True)]}
    assert "b" in conclude({"copied": found["copied"], "loop": gone["loop"]}, "a", held_out=3, random_seeds=[0])["left_out"]


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

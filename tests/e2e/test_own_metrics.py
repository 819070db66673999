"""Metrics of evaluators outside the package: which side is better and what is a share is theirs to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import SCRIPTED, Run
from tests.files import result, succeeded, write_rows

OWN = """
from dataclasses import dataclass, replace
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.recipes import icl_knn
from selfalign.recipes import isara
from selfalign.recipes import pretrained
from selfalign.trainers import NullTrainer
from selfalign.types import Metric, Outcome


@dataclass(frozen=True)
class Falling:
    '''A figure that falls by 2 with each round, and where seeds are shown; what that means is told by its options.'''

    name: str = "plain"
    better: str = "higher"
    start: float = 9.0

    def evaluate(self, context, held_out):
        fallen = 2.0 * (context.round + (context.eval_retriever is not None))
        outcomes = tuple(Outcome(e.id, self.start - fallen + i % 3) for i, e in enumerate(held_out))
        value = sum(each.value for each in outcomes) / len(outcomes)
        if self.name == "plain":  # as evaluators were written before metrics said more
            return [Metric(self.name, value, value - 1, value + 1, len(outcomes), outcomes)]
        return [Metric(self.name, value, value - 1, value + 1, len(outcomes), outcomes, better=self.better)]


@dataclass(frozen=True)
class Slips:
    def evaluate(self, context, held_out):
        outcomes = tuple(Outcome(e.id, float(i == 0)) for i, e in enumerate(held_out))
        return [Metric("slips", 1 / len(outcomes), 0.0, 0.4, len(outcomes), outcomes, unit="share", better="lower")]


PARTS = (Falling(), Falling("errors", "lower"), Falling("words", "neither"), Slips())


def own(*, engine: Scripted = Scripted(), encoder: Hashed = Hashed(), trainer: NullTrainer = NullTrainer()):
    recipe = replace(isara(demonstrations=4), rounds=1, per_round=8, min_yield=0, engine=engine, encoder=encoder, trainer=trainer)
    return replace(recipe, name="own", evaluators=PARTS)


def asked(*, start: float = 9.0, shown: bool = False, turned: bool = False, engine: Scripted = Scripted()):
    recipe = replace(icl_knn(), engine=engine, encoder=Hashed()) if shown else replace(pretrained(), engine=engine)
    parts = (PARTS[0], Falling("errors", "lower", start), *PARTS[2:])
    return replace(recipe, name="asked", evaluators=parts[::-1] if turned else parts)
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twelve held-out prompts; beside them the parts and recipes above in own.py."""
    (tmp_path / "own.py").write_text(OWN)
    path = tmp_path / "held_out.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is number {i}?"}) + "\n" for i in range(12)))
    return path


def test_a_study_goes_by_what_a_metric_says_of_itself(cli: Run, seeds_file: Path, prompts: Path, tmp_path: Path) -> None:
    options = ("--model", "scripted", "--held_out", prompts, "--baselines", "pretrained", "--repeats", 1, "--quiet")
    study = ("study", "./own.py:own", seeds_file, *options, "--out", tmp_path / "study")
    for metric, verdict in (("errors", "better"), ("plain", "worse"), ("words", "lower")):
        told = result(cli(*study, "--metric", metric, "--json"))
        assert [each["verdict"] for each in told["verdicts"]] == [verdict]
        assert f"own is {verdict} than pretrained on {metric}: -2 [-2, -2]" in told["verdicts"][0]["sentence"]
    assert told["metrics"]["errors"] == {"unit": "number", "better": "lower"}
    assert told["metrics"]["plain"] == {"unit": "number", "better": "higher"}
    # One slip in twelve, measured once: Wilson's interval.
    slips = told["arms"]["pretrained"]["metrics"]["slips"]
    assert slips["value"] == pytest.approx(1 / 12) and [slips["low"], slips["high"]] == pytest.approx([0.015, 0.354], abs=1e-3)
    table = cli(*study, COLUMNS="120").stdout
    assert "slips in points, less is better" in table and "8 [1, 35]" in table
    assert "errors, less is better" in table and "words: 12 prompts" in table
    assert cli("report", tmp_path / "study").returncode == 0
    page = (tmp_path / "study/report.html").read_text("utf-8")
    assert '<h2>errors</h2>\n<p class="hint">Lower is better.' in page
    assert '<h2>words</h2>\n<p class="hint">No side is better.' in page
    metrics = result(cli("status", tmp_path / "study/own/seed-0", "--json"))["rounds"][1]["metrics"]
    assert metrics["errors"] == {"value": 8.0, "low": 7.0, "high": 9.0, "n": 12, "unit": "number", "better": "lower"}
    assert "8% [0, 40]" in cli("status", tmp_path / "study/own/seed-0").stdout


def test_evaluations_go_by_it_too_and_several_parts_of_a_class_are_kept_apart(
    cli: Run, seeds_file: Path, prompts: Path, tmp_path: Path
) -> None:
    run = ("run", "./own.py:asked", seeds_file, "--model", "scripted", "--held_out", prompts, "--quiet", "--out")
    for name, options in (
        ("alone", ()),
        ("shown", ("--shown", "true")),
        ("turned", ("--turned", "true")),
        ("other", ("--start", 5)),
    ):
        succeeded(cli(*run, tmp_path / name, *options))
    for metric, verdict in (("errors", "better"), ("plain", "worse"), ("words", "lower")):
        told = result(cli("eval", tmp_path / "shown", "--compare", tmp_path / "alone", "--metric", metric, "--json"))
        assert told["comparison"]["verdict"] == verdict
    assert told["comparison"]["differences"]["errors"]["better"] == "lower"
    assert told["model"]["metrics"]["slips"]["unit"] == "share"
    table = cli("eval", tmp_path / "shown", "--compare", tmp_path / "alone", "--metric", "errors", COLUMNS="120").stdout
    assert "errors, less is better" in table and "words, less" not in table and "8% [0, 40]" in table
    # The same parts in another order measure the same; one of three with another option does not.
    assert cli("eval", tmp_path / "turned", "--compare", tmp_path / "alone", "--metric", "errors").returncode == 0
    done = cli("eval", tmp_path / "other", "--compare", tmp_path / "alone", "--metric", "words")
    assert done.returncode == 2 and "Falling.start = 9.0, now 5.0" in done.stderr, done.stderr


def test_a_study_of_arms_that_need_no_seeds_asks_for_none(cli: Run, seeds_file: Path, prompts: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(seeds_file.read_text("utf-8").splitlines()[0] + "\n")
    options = ("--model", "scripted", "--engine", "Scripted", "--held_out", prompts, "--repeats", 1, "--quiet", "--out")
    succeeded(cli("study", "pretrained", one, "--baselines", "./own.py:asked", *options, tmp_path / "a", "--metric", "finished"))
    assert json.loads((tmp_path / "a/study.json").read_text("utf-8"))["arms"].keys() == {"pretrained", "asked"}
    done = cli("study", "isara", one, *SCRIPTED, "--held_out", prompts, "--baselines", "pretrained", "--out", tmp_path / "b")
    assert done.returncode == 2 and "1 seed example: at least 2 are needed" in done.stderr


def test_figures_that_are_not_given_are_told_with_the_run(cli: Run, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"教我第{i}件坏事" if i % 2 else f"第{i}道菜怎么做？",
            "response": f"抱歉，第{i}件我不能帮忙" if i % 2 else f"先切菜，第{i}步放盐",
            "category": "harmful" if i % 2 else "harmless",
        }
        for i in range(48)
    ]
    for file, some in (("seeds", rows[:8]), ("more", rows[:24]), ("held", rows[24:])):
        write_rows((tmp_path / file).with_suffix(".jsonl"), some)
    for seeds, says in (("seeds", "are not given: the prompts are not in English, and"), ("more", "are judged by likeness to")):
        out = tmp_path / f"run-{seeds}"
        small = ("--rounds", 0, "--held_out", tmp_path / "held.jsonl", "--quiet", "--out", out)
        succeeded(cli("run", "isara", tmp_path / f"{seeds}.jsonl", *SCRIPTED, *small))
        (figures,) = [round["metrics"] for round in json.loads(cli("status", out, "--json").stdout)["rounds"]]
        assert ("refusal" in figures) is (seeds == "more") and figures["finished"]["n"] == 24
        told = " ".join(cli("status", out).stdout.split())
        assert f"evaluation: refusal, over_refusal and balance {says}" in told

"""Evaluations that any recipe takes, and the names that their figures must not have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import RunFailed, UserError
from selfalign.evaluators import LmEval, Truthfulness
from selfalign.export.answers import export_answers
from selfalign.loop.align import align
from selfalign.protocols import Context
from selfalign.recipes import pretrained
from selfalign.recipes.evaluations import measured_by
from selfalign.record.plain import flat
from selfalign.record.store import Store
from selfalign.types import Example, Metric
from tests.conftest import Run


@dataclass(frozen=True)
class Named:
    """One figure of a given name."""

    name: str

    def evaluate(self, context: Context, held_out: Sequence[Example]) -> list[Metric]:
        return [Metric(self.name, 1.0, 1.0, 1.0, 1)]


def test_an_evaluation_that_is_off_leaves_no_trace_and_one_without_its_file_is_told() -> None:
    recipe = replace(pretrained(), engine=Scripted(), encoder=Hashed())
    assert measured_by(recipe, truthfulness=Truthfulness()) == recipe
    assert measured_by(recipe, lm_eval=LmEval(ifeval_file="x.jsonl")).evaluators[-1] == LmEval(ifeval_file="x.jsonl")
    with pytest.raises(UserError, match=r"options of --truthfulness change nothing without --truthfulness\.file: give that"):
        measured_by(recipe, truthfulness=Truthfulness(questions=5))
    with pytest.raises(UserError, match=r"without --lm_eval\.tasks or --lm_eval\.ifeval_file"):
        measured_by(recipe, lm_eval=LmEval(limit=3))


@pytest.mark.parametrize("name", ["kept_words", "validation_x", "alarms", "calibration_judge_auc"])
def test_no_evaluator_takes_a_name_of_the_guards(tmp_path: Path, name: str) -> None:
    recipe = replace(replace(pretrained(), engine=Scripted(), encoder=Hashed()), evaluators=(Named(name),))
    with pytest.raises(RunFailed, match=f"an evaluator names a metric {name}; the guards' names begin so"):
        align(recipe, "scripted", (), tmp_path / "run")


def test_a_prompt_without_room_is_answered_with_nothing_and_not_left_out(tmp_path: Path) -> None:
    recipe = replace(pretrained(), engine=Scripted(window=300), encoder=Hashed())
    held_out = tuple(Example(id, text, "") for id, text in (("a", "Where is it?"), ("b", "word " * 280), ("c", "What now?")))
    for _ in range(2):  # gone on with, it is there once
        align(recipe, "scripted", (), tmp_path / "run", held_out=held_out)
        with Store.read(tmp_path / "run") as store:
            assert export_answers(store, tmp_path / "answers.json") == 3
    rows = json.loads((tmp_path / "answers.json").read_text())
    assert [row["instruction"] for row in rows] == [example.prompt for example in held_out]
    assert [bool(row["output"]) for row in rows] == [True, False, True]


def test_options_flat() -> None:
    options = {"a": {"b": 1, "c": {}}, "parts": [{"part": "x"}, {"part": "y", "n": [1, 2]}], "none": None}
    wanted = [("a.b", 1), ("a.c", {}), ("parts.1.part", "x"), ("parts.2.part", "y"), ("parts.2.n", [1, 2]), ("none", None)]
    assert list(flat(options)) == wanted


def test_check_asks_for_no_more_seeds_than_run(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "Where is the well?", "response": "Behind the old house."}\n')
    engine = ("--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed")
    assert cli("check", "pretrained", "one.jsonl", *engine).returncode == 0
    found = cli("check", "icl_knn", "one.jsonl", *engine)
    assert found.returncode == 2 and "1 seed example: at least 2 are needed" in found.stderr
    listed = cli("check", "sft", "one.jsonl", *engine, "--steps", "24")
    assert "option --steps: expected a list in brackets, such as '[one,two]'. Got: 24" in listed.stderr
    long = cli("eval", "x" * 400, "--engine", "Scripted", "--held_out", "one.jsonl")
    assert long.returncode == 2 and "File name too long; name a model or a run folder" in long.stderr


def test_a_function_that_is_no_recipe_is_told_in_one_line(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def three(rounds: int = 2):\n    return 3\n\ndef clash(model: str = 'x'):\n    return 3\n")
    for name, said in (
        ("three", "three gives int and no Recipe; return one from it"),
        ("clash", "clash: its parameter model is an option of `selfalign run`; rename it"),
    ):
        found = cli("run", f"./mine.py:{name}", seeds_file, "--model", "scripted", "--out", "run")
        assert found.returncode == 2 and said in found.stderr and found.stderr.count("\n") == 1

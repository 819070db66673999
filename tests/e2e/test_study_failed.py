"""Runs of a study that fail: the others go on, what is missing is said everywhere, and going on takes up that alone."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from selfalign.proof.verdicts import conclude
from tests.conftest import Refused, Run
from tests.e2e.test_study import held_file, read, record
from tests.files import succeeded
from tests.unit.test_verdicts import finished

__all__ = ["held_file"]  # a fixture


@pytest.fixture
def brittle(tmp_path: Path) -> str:
    """A recipe that fails on random seed 1, and one that has a fault, while a file says so."""
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass, replace
            from pathlib import Path
            from selfalign.encoders import Hashed
            from selfalign.engines import Scripted
            from selfalign.errors import RunFailed, UserError
            from selfalign.recipes import isara
            from selfalign.trainers import NullTrainer
            from selfalign.types import FilterResult

            @dataclass(frozen=True)
            class Short:
                def apply(self, context, examples):
                    if Path("broken").exists() and context.seed == 1:
                        raise RunFailed("there is no memory for batches of 8")
                    return FilterResult(tuple(examples), ())

            @dataclass(frozen=True)
            class Faulty:
                def apply(self, context, examples):
                    if Path("broken").exists():
                        raise ZeroDivisionError("of my own")
                    return FilterResult(tuple(examples), ())

            @dataclass(frozen=True)
            class Wrong:
                def propose(self, context, count):
                    raise UserError("no such table: give another one")

            def made(name, part):
                recipe = replace(isara(), name=name, rounds=1, per_round=8, min_yield=0, filters=(part,))
                return replace(recipe, engine=Scripted(), encoder=Hashed(), trainer=NullTrainer())

            def main(*, engine: Scripted = Scripted(), encoder: Hashed = Hashed(), trainer: NullTrainer = NullTrainer()):
                return replace(made("main", Short()), engine=engine)

            def faulty():
                return made("faulty", Faulty())

            def wrong():
                return replace(made("wrong", Short()), proposer=Wrong(), evaluators=(), validation_share=0)
            """
        )
    )
    return "./mine.py"


def test_the_others_go_on_and_only_what_failed_is_taken_up(
    cli: Run, brittle: str, seeds_file: Path, held_file: Path, tmp_path: Path
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "out"
    broken.touch()
    run = ("study", f"{brittle}:main", seeds_file, "--model", "scripted", "--held_out", held_file, "--quiet")
    done = cli(*run, "--baselines", f"pretrained,sft,{brittle}:faulty", "--out", out)
    assert done.returncode == 1, done.stderr
    study = read(out)
    memory, fault = "there is no memory for batches of 8", "ZeroDivisionError: of my own"
    assert [(row["arm"], row["seed"], row["reason"]) for row in study["failed"]] == [
        ("faulty", 0, fault),
        ("main", 1, memory),
        ("sft", 1, "not begun, as it takes the steps of main, which did not finish"),
        ("faulty", 1, fault),
        ("faulty", 2, fault),
    ]
    assert [run["seed"] for run in study["arms"]["main"]["runs"]] == [0, 2] and "faulty" not in study["arms"]
    compared = study["comparisons"][study["metric"]]
    assert {arm: row["repeats"] for arm, row in compared.items()} == {"pretrained": 2, "sft": 2}
    # Said at once, where the table is, and as the last line; the traceback of what is no expected error too.
    go_on = f"5 runs did not finish; `selfalign study --config {out / 'study.yaml'}` goes on with what is missing alone"
    assert f"arm main, random seed 1: {memory}; the other runs go on" in done.stderr and "in apply" in done.stderr
    assert done.stderr.splitlines()[-1] == f"selfalign: {go_on}" and go_on in done.stdout
    alone = "compared on random seeds 0 and 2 alone, as main and sft did not finish on random seed 1"
    assert f"main, random seed 1: {memory}" in done.stdout and alone in done.stdout
    assert any(line.split()[:4] == ["main", "2", "of", "3"] for line in done.stdout.splitlines())
    assert any(line.split()[:4] == ["faulty", "0", "of", "3"] for line in done.stdout.splitlines())
    assert cli("report", out).returncode == 0
    page = (out / "report.html").read_text("utf-8")
    assert memory in page and "0 of 3" in page and "2 of 3" in page and "not among the arms compared" not in page
    row = json.loads(cli("list", tmp_path, "--json").stdout)["runs"][0]
    assert (row["kind"], row["recipe"], row["state"]) == ("study", "main", "failed")
    assert row["at"] == "5 of 10 runs done, 4 failed" and row["runs"] == {"done": 5, "failed": 4, "of": 10}

    before = record(out)
    broken.unlink()
    again = succeeded(cli("study", "--config", out / "study.yaml"))
    whole, after = read(out), record(out)
    assert whole["failed"] == [] and {len(arm["runs"]) for arm in whole["arms"].values()} == {1, 3}
    assert {run for run in before if before[run] != after[run]} == {f"faulty/seed-{n}" for n in (0, 1, 2)} | {"main/seed-1"}
    assert "did not finish" not in again.stdout
    assert json.loads(cli("list", tmp_path, "--json").stdout)["runs"][0]["state"] == "done"


def test_where_nothing_finishes_the_study_ends(
    cli: Run, refused: Refused, brittle: str, seeds_file: Path, held_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    run = ("study", f"{brittle}:main", seeds_file, "--model", "scripted", "--held_out", held_file, "--quiet", "--seed", 1)
    done = cli(*run, "--baselines", f"{brittle}:faulty,sft", "--out", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(
        "selfalign: no arm finished on random seed 1: 3 runs did"
    )
    assert "there is no memory" in done.stderr.splitlines()[-1] and not (tmp_path / "out/study.json").exists()
    # Without the arm that the others are compared with there are figures and no verdict.
    done = cli(*run, "--baselines", "pretrained,icl_random", "--repeats", 1, "--out", tmp_path / "alone")
    assert done.returncode == 1, done.stderr
    study = read(tmp_path / "alone")
    assert list(study["arms"]) == ["pretrained", "icl_random"] and study["verdicts"] == [] and "main" not in study["arms"]
    assert "no verdict: main, which the others are compared with, finished on no random seed" in done.stdout
    assert cli("report", tmp_path / "alone").returncode == 0
    assert "No verdict on balance: main did not finish" in (tmp_path / "alone/report.html").read_text("utf-8")


def test_random_seeds_that_an_arm_lacks_are_left_out_of_both_sides() -> None:
    def arm(*seeds: int, mean: float = 0.0) -> list[Any]:
        return [finished(seed, a=[mean + seed + slot / 100 for slot in range(20)]) for seed in seeds]

    def lost(name: str, *seeds: int) -> list[dict[str, Any]]:
        return [{"arm": name, "seed": seed, "folder": f"{name}/seed-{seed}", "reason": "killed"} for seed in seeds]

    # Of sft one run is left: it is not one that stands for all random seeds, as the base model's does.
    found = {"loop": arm(0, 1, 2, mean=1.0), "sft": arm(2), "base": arm(0), "other": []}
    failed = [*lost("sft", 0, 1), *lost("other", 0, 1, 2)]
    study = conclude(found, "a", held_out=20, random_seeds=[0, 1, 2], failed=failed)
    rows = study["comparisons"]["a"]
    assert {name: row["repeats"] for name, row in rows.items()} == {"sft": 1, "base": 3}
    assert rows["sft"]["difference"] == pytest.approx(1.0)  # random seed 2 with random seed 2
    assert rows["sft"]["p_holm"] == pytest.approx(3 * rows["sft"]["p_value"])  # as with the arm that failed
    told = {each["arm"]: each["sentence"] for each in study["verdicts"]}
    assert "compared on one random seed alone, as sft did not finish on random seeds 0 and 1" in told["sft"]
    assert "trained on 1 random seed alone" in told["sft"] and "did not finish" not in told["base"]
    nothing = conclude(
        {"loop": arm(0), "sft": arm(1)}, "a", held_out=20, random_seeds=[0, 1], failed=[*lost("sft", 0), *lost("loop", 1)]
    )
    assert nothing["verdicts"] == [] and list(nothing["arms"]) == ["loop", "sft"]

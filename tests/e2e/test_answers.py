"""Answers to held-out prompts through the front door: judged against references, and exported for other judges."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from selfalign.record.store import Store
from tests.conftest import Run
from tests.files import succeeded, write_rows

PROMPTS = [f"What is the {ordinal} thing to do with {{braces}} and “quotes”?" for ordinal in ("first", "second", "third", "last")]


@pytest.fixture
def run_folder(cli: Run, seeds_file: Path, tmp_path: Path) -> Path:
    """A run whose answers the base model compares with the references."""
    (tmp_path / "judged.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import replace
            from selfalign.encoders import Hashed
            from selfalign.engines import Scripted
            from selfalign.evaluators import WinRate
            from selfalign.recipes import isara
            from selfalign.trainers import NullTrainer

            def judged(*, rounds: int = 1):
                recipe = replace(isara(), rounds=rounds, per_round=8, min_yield=0, validation_share=0, engine=Scripted(),
                               encoder=Hashed(), trainer=NullTrainer())
                return replace(recipe, evaluators=(WinRate("base"),))
            """
        )
    )
    rows = [{"id": f"h{row}", "prompt": text, "response": f"Do thing number {row}."} for row, text in enumerate(PROMPTS)]
    write_rows(tmp_path / "held_out.jsonl", rows)
    out = tmp_path / "run"
    options = ("--model", "org/scripted", "--held_out", tmp_path / "held_out.jsonl", "--out", out, "--quiet")
    succeeded(cli("run", "./judged.py:judged", seeds_file, *options))
    return out


def read(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8")))


def test_every_round_is_judged_against_the_same_references(cli: Run, run_folder: Path) -> None:
    rounds = json.loads(cli("status", run_folder, "--json").stdout)["rounds"]
    assert len(rounds) == 2
    for row in rounds:
        assert {"win_rate", "win_rate_strict", "win_rate_ties", "win_rate_consistency"} <= set(row["metrics"])
        assert {"win_rate_constant", "win_rate_unjudged", "win_rate_flaws"} <= set(row["metrics"])
        assert 0 <= row["metrics"]["win_rate"]["value"] <= 1
        assert row["metrics"]["win_rate"]["n"] == 4
    # The judge is the base model in every round, and so is what it says of the constant answer.
    assert rounds[0]["metrics"]["win_rate_constant"] == rounds[1]["metrics"]["win_rate_constant"]
    assert rounds[0]["metrics"]["win_rate"] != rounds[1]["metrics"]["win_rate"]
    with Store.read(run_folder) as store:
        for round in (0, 1):
            assert [one.id for one in store.outcomes(round, "win_rate")] == ["h0", "h1", "h2", "h3"]
            with store.snapshot() as connection:
                query = "SELECT stage, count(*) FROM outputs WHERE round = ? AND stage LIKE 'win_rate%' GROUP BY stage"
                ((stage, count),) = connection.execute(query, (round,)).fetchall()
            # Journaled: two letters in two orders for each answer, and for the constant one.
            assert (len(stage), count) == (len("win_rate_") + 8, 4 * 2 * 4)


def test_answers_are_exported_as_alpaca_eval_reads_them(cli: Run, run_folder: Path, tmp_path: Path) -> None:
    found = {}
    for round in (0, 1):
        file = tmp_path / f"answers-{round}.json"
        done = cli("export", run_folder, "--answers", file, "--round", round)
        assert (done.returncode, done.stdout) == (0, f"4 answers in {file}\n"), done.stderr
        rows = found[round] = read(file)
        assert [set(row) for row in rows] == [{"instruction", "output", "generator", "dataset"}] * 4
        assert [row["instruction"] for row in rows] == PROMPTS
        assert {row["generator"] for row in rows} == {f"scripted-isara-round-{round:02d}"}
        assert {row["dataset"] for row in rows} == {"held_out"}
        with Store.read(run_folder) as store:
            assert [row["output"] for row in rows] == [row["text"] for row in store.done_batches(round, "held_out").values()]
    assert [row["output"] for row in found[0]] != [row["output"] for row in found[1]]
    # Without --round the best one's; the same record gives the same bytes.
    best = json.loads(cli("status", run_folder, "--json").stdout)["best_round"]
    assert cli("export", run_folder, "--answers", tmp_path / "best.json").returncode == 0
    assert (tmp_path / "best.json").read_bytes() == (tmp_path / f"answers-{best}.json").read_bytes()


def test_answers_that_cannot_be_exported(cli: Run, run_folder: Path, tmp_path: Path) -> None:
    for file, more, message in (
        ("answers.jsonl", (), "name a .json file"),
        ("no/such/answers.json", (), "its folder does not exist"),
        (".", (), "is a folder"),
        ("answers.json", ("--round", 7), "round 7 is not evaluated"),
    ):
        done = cli("export", run_folder, "--answers", tmp_path / file, *more)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert message in done.stderr
    assert not (tmp_path / "answers.json").exists()


def test_a_run_without_held_out_prompts_has_no_answers(cli: Run, seeds_file: Path, run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert cli("run", "./judged.py:judged", seeds_file, "--model", "m", "--rounds", 0, "--out", other, "--quiet").returncode == 0
    done = cli("export", other, "--answers", tmp_path / "answers.json")
    assert done.returncode == 2
    assert "answered no held-out prompts" in done.stderr

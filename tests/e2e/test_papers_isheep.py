"""I-SHEEP's tables at the smallest scale: every one is filled, from runs that they share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from papers.run import main, papers

MODEL = "1.8b=scripted/1.8b"
ITERATIONS = [f"1.8b, iteration {number}" for number in (1, 2, 3)]
WITH_BASE = ["1.8b, base", *ITERATIONS]
IFEVAL = {"P-strict", "I-strict", "P-loose", "I-loose"}
CHAT = {"AlpacaEval", "not rated"}
IF_RATED = {"MT-Bench", "MT-Bench, turn 1", "MT-Bench, turn 2"}
"""The scripted judge's texts follow from its folder's name, and in few of them there is a rating."""
TABLES: dict[str, tuple[list[str], set[str]]] = {
    "chat": (ITERATIONS, CHAT),
    "ifeval": (ITERATIONS, IFEVAL),
    "code": (WITH_BASE, {"HumanEval", "HumanEval+", "MBPP"}),
    "knowledge": (WITH_BASE, {"TriviaQA"}),
    "table1": (WITH_BASE, {*CHAT, *IFEVAL, "HumanEval", "HumanEval+", "MBPP", "TriviaQA"}),
    "figure3": (ITERATIONS, {*(f"both above {above}" for above in (6, 7, 8, 9)), "kept", "median words"}),
    "filters": (
        [f"1.8b, {arm}" for arm in ("simple", "combined", "in_context", "density_perplexity", "density", "perplexity")],
        {*IFEVAL, "kept"},
    ),
    "self_assessment": ([f"1.8b, {arm}" for arm in ("both", "following", "quality", "nothing")], {*IFEVAL, "kept"}),
    "thresholds": ([f"1.8b, above {above}" for above in (6, 7, 8, 9)], {*IFEVAL, "kept"}),
    "iteration_settings": (
        [f"1.8b, {arm}" for arm in ("one_base", "one_last", "total_base", "direct 20k", "direct 30k")],
        {*CHAT, *IFEVAL},
    ),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tables, as a person has it."""
    return tmp_path_factory.mktemp("isheep")


def fill(out: Path, table: str, *options: str) -> dict[str, Any]:
    assert main(["isheep", table, "--out", str(out), "--scale", "tiny", "--model", MODEL, "--quiet", *options]) == 0
    found: dict[str, Any] = json.loads((out / f"isheep-{table}.json").read_text(encoding="utf-8"))
    return found


def test_every_table_is_tried_here() -> None:
    assert {*papers()["isheep"]} == {*TABLES}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_filled(out: Path, table: str) -> None:
    """Every row and every column that needs no network and no judge, the paper's figures beside ours."""
    if table in ("code", "table1") and not sys.platform.startswith("linux"):
        pytest.skip("code runs on Linux alone")
    rows, columns = TABLES[table]
    found = fill(out, table, "--unsafe_run_code")
    cells = {(each["row"], each["column"]): each for each in found["cells"]}
    assert {column for _, column in cells} - (IF_RATED if columns >= CHAT else set()) == columns
    assert [*dict.fromkeys(row for row, _ in cells)] == (rows if table != "thresholds" else ["1.8b, above 6", *rows[1:]])
    complete = {*rows} - {"1.8b, base", "1.8b, above 9"}  # with nothing kept above 9 there is nothing to measure
    assert {(row, column) for row in complete for column in columns} <= {*cells}
    if table in ("chat", "ifeval", "code", "knowledge"):
        assert all(each["paper"] is not None for (_, column), each in cells.items() if column in columns - {"not rated"})
    assert all(each["low"] is None or each["low"] <= each["value"] <= each["high"] for each in cells.values())


def test_answers_are_there_for_the_papers_own_judge(out: Path) -> None:
    fill(out, "chat")
    rows = json.loads((out / "answers" / "isheep-1.8b-combined-seed-42-iteration-3.json").read_text(encoding="utf-8"))
    assert len(rows) == 30 and {*rows[0]} == {"instruction", "output", "generator", "dataset"}


def test_ablations_change_what_is_kept(out: Path) -> None:
    kept = {each["row"]: each["value"] for each in fill(out, "thresholds")["cells"] if each["column"] == "kept"}
    assert kept["1.8b, above 6"] >= kept["1.8b, above 8"] > kept["1.8b, above 9"] == 0


def test_code_runs_only_where_it_is_said(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["isheep", "code", "--out", str(out), "--scale", "tiny", "--model", MODEL, "--quiet"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "papers: this table runs code that a model wrote; where you want that, say --unsafe_run_code"

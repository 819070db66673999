"""A run from Python: seeds from a frame or a data set, pairs and metrics back as such."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from selfalign import Run, align, read_seeds
from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import SeedError, UserError
from selfalign.recipes import isara
from selfalign.record.store import Store
from selfalign.trainers import NullTrainer
from selfalign.types import Metric, ModelRef

RECIPE = replace(isara(), rounds=1, per_round=16, engine=Scripted(), encoder=Hashed(), trainer=NullTrainer())
ROWS = [{"prompt": f"How do I mend pot {i}?", "response": f"Glue pot {i}.", "category": "ab"[i % 2], "n": i} for i in range(4)]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS, index=list("wxyz")).convert_dtypes(),
        datasets.Dataset.from_list(ROWS),
        ROWS,
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}),
        iter(ROWS),
    ],
    ids=["frame", "frame of pandas' own types", "data set", "rows", "the one split", "any iterable"],
)
def test_a_table_is_read_as_a_file_is(table: Any) -> None:
    found = read_seeds(table)
    assert [(e.prompt, e.response, e.category, e.metadata) for e in found] == [
        (row["prompt"], row["response"], row["category"], {"n": str(row["n"])}) for row in ROWS
    ]
    assert found[1].id == "seed-0002"


def test_turns_in_a_frame_are_turns() -> None:
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "In the post."}]
    (example,) = read_seeds(pd.DataFrame({"messages": [turns]}))
    assert (example.prompt, example.response) == ("Where is it?", "In the post.")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame([*ROWS, {"prompt": 7, "response": "x"}]), "table row 5: field 'prompt': is the number 7 where text"),
        (pd.DataFrame([*ROWS, {"prompt": "Why?", "response": None}]), "table row 5: field 'response': is null"),
        (pd.DataFrame([*ROWS, ROWS[0]]), "table row 5: the prompt 'How do I mend pot 0?' is the same as that of table row 1"),
        (
            datasets.Dataset.from_list([{"text": "x"}]),
            "table row 1: field 'response': is missing among 'prompt'.*read 'text' as the prompt",
        ),
        (datasets.DatasetDict({"a": [], "b": []}), "table: has several splits"),  # type: ignore[dict-item]
        (
            pd.DataFrame([["a", "b", "c"]], columns=["prompt", "prompt", "response"]),
            "table: has several columns of the name 'prompt'",
        ),
        (pd.DataFrame(columns=["prompt", "response"]), "table: has no rows"),
        (["a row that is text"], "table row 1: field 'response': is missing"),
        (7, "table: is int; give a file, a data frame"),
    ],
)
def test_what_is_wrong_in_a_table_names_the_row(table: Any, said: str) -> None:
    with pytest.raises(SeedError, match=f"^{said.replace('?', '.')}"):
        read_seeds(table)


def test_a_run_gives_frames_and_a_data_set_back(seeds_file: Path, tmp_path: Path) -> None:
    frame = pd.read_json(seeds_file, lines=True)
    run = align(RECIPE, "scripted", frame, tmp_path / "run", held_out=[{"prompt": "What is it?"}], progress=None)
    with Store.read(run.folder) as store:
        kept, gone, seeds = store.kept(1), store.dropped(1), store.seeds()
        shown = len(store.validation_seeds())
    pairs, dropped, metrics = run.pairs, run.dropped, run.metrics
    assert pairs.verdict.value_counts().to_dict() == {"seed": len(seeds), "validation": shown, "kept": len(kept)}
    assert list(pairs[pairs.verdict == "kept"].response) == [example.response for example in kept]
    assert list(dropped.rule) == [drop.rule for drop in gone] and dropped.evidence.str.len().min() > 0
    assert {"round", "metric", "value", "low", "high", "n"} <= {*metrics.columns} and set(metrics["round"]) == {0, 1}
    data = run.dataset()
    assert data.num_rows == len(pairs) and data.column_names == ["id", "round", "category", "validation", "prompt", "response"]
    assert sum(data["validation"]) == shown
    page = run._repr_html_()
    assert ("<b>isara</b>" in page and "1 *" in page) or "0 *" in page


def test_a_notebook_shows_names_as_they_are(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", {"name": "<b>own</b>"}) as store:
        store.add_model(0, ModelRef("base"))
        store.finish_evaluation(0, [Metric("<i>m</i>", 0.5, float("nan"), 0.6, 4)], 1.0)
        store.finish_run(0, "<script>")
    page = Run(tmp_path / "run", ModelRef("base"), 0, "done")._repr_html_()
    assert "<b>own" not in page and "<script" not in page and "&lt;i&gt;m&lt;/i&gt;" in page and "0.5 [–, 0.6]" in page


def test_without_the_package_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path / "run", {"name": "own"}) as store:
        store.add_model(0, ModelRef("base"))
    run = Run(tmp_path / "run", ModelRef("base"), 0, "done")
    for package, asked in (("pandas", lambda: run.pairs), ("datasets", run.dataset)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"pip install {package}"):
            asked()


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((Path(__file__).parents[2] / "examples" / "demo.ipynb").read_text(encoding="utf-8"))["cells"]
    known: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    shown = []
    for cell in cells:
        lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("!")]
        if cell["cell_type"] == "code" and lines:
            *before, last = ast.parse("\n".join(lines)).body
            exec(compile(ast.Module([*before], []), "cell", "exec"), known)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), known))
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), known)
        if "recipe" in known:  # the real one takes a quarter of an hour
            known |= {"recipe": replace(RECIPE, min_yield=0.0), "model": "scripted"}
    commands = [line for cell in cells for line in "".join(cell["source"]).splitlines() if line.startswith("!")]
    assert len(shown) == 5 and shown[1].folder == Path("runs/notebook")
    assert set(shown[2]["metric"]) == {"refusal", "over_refusal", "balance", "finished"}
    assert len(shown[3]) and len(commands) == 3
    for line in commands:
        with pytest.raises(SystemExit, match="0"):
            main([*line.split()[1:], "--help"])

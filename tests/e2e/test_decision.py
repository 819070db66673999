"""`decision_auc` and `matched_refusal` through the front door: run, status, study, eval, report; and runs from before them."""

from __future__ import annotations

import json
import sqlite3
from importlib.resources import files
from pathlib import Path

from tests.conftest import SCRIPTED, Run
from tests.files import succeeded

NAMES = ("decision_auc", "matched_refusal")


def test_a_study_compares_the_curves_of_its_arms(cli: Run, tmp_path: Path) -> None:
    data = files("selfalign") / "data" / "safe_helpful"
    seeds, held_out, out = tmp_path / "seeds.jsonl", tmp_path / "held_out.jsonl", tmp_path / "study"
    for path, count in ((seeds, 24), (held_out, 20)):
        lines = (data / path.name).read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")
    options = ("--rounds", 1, "--per_round", 8, "--min_yield", 0, "--held_out", held_out, "--quiet")
    study = (
        "study",
        "isara",
        seeds,
        *SCRIPTED,
        *options,
        "--baselines",
        "pretrained,icl_knn,copy_nearest",
        "--repeats",
        1,
        "--out",
        out,
    )
    done = succeeded(cli(*study))
    assert "decision auc in points: 20 prompts" in done.stdout and "matched refusal in points" in done.stdout
    found = json.loads((out / "study.json").read_text())
    for name in NAMES:
        assert set(found["comparisons"][name]) == {"pretrained", "icl_knn"} and found["metrics"][name]["unit"] == "share"
        assert set(found["missing"][name]) == {"copy_nearest"} and name not in found["arms"]["copy_nearest"]["metrics"]
        for arm in (found["arms"][each] for each in ("isara", "pretrained", "icl_knn")):
            figure = arm["metrics"][name]
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1 and figure["prompts"] == 20
    run = out / "isara" / "seed-0"
    rounds = json.loads(cli("status", run, "--json").stdout)["rounds"]
    assert [set(NAMES) <= set(row["metrics"]) for row in rounds] == [True, True]
    for name in NAMES:  # the same openings, though `pretrained` holds no seed out
        assert rounds[0]["metrics"][name]["value"] == found["arms"]["pretrained"]["metrics"][name]["value"]
    with sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True) as record:
        stages = {name for (name,) in record.execute("SELECT DISTINCT stage FROM outputs WHERE stage LIKE '%decision%'")}
        known = "".join(str(row) for row in record.execute("SELECT * FROM meta"))
    assert len(stages) == 1 and "at_over_refusal" not in known  # a run from before the option is no other run
    assert cli("report", out).returncode == 0
    assert "How often refusing is likelier for a prompt to refuse" in (out / "report.html").read_text(encoding="utf-8")
    done = cli(*study, "--refusal.at_over_refusal", 0.2)
    assert done.returncode == 2 and "at_over_refusal" in done.stderr and "Traceback" not in done.stderr

"""`--report_to` through the front door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.record.store import Store
from selfalign.tracking.figures import figures
from tests.conftest import SCRIPTED, Run
from tests.files import scalars, succeeded

SMALL = ("--rounds", 2, "--per_round", 16, "--demonstrations", 4, "--min_yield", 0, "--quiet")


def test_a_killed_run_reports_each_figure_once(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--out", out, "--report_to", "tensorboard", "--json")
    assert cli(*command, SELFALIGN_FAULT_AT="model.after-commit:2").returncode < 0
    before = scalars(out)
    assert "metrics/validation_log_likelihood" in before
    done = succeeded(cli(*command))
    assert json.loads(done.stdout)["state"] == "done"  # trackers print nothing between
    assert cli("run", "--config", out / "run.yaml").returncode == 0
    with Store.read(out) as store:
        expected = [(p.name, p.step, pytest.approx(p.value)) for points in figures(store).values() for p in points]
    found = [(name, step, value) for name, points in scalars(out).items() for step, value in points]
    assert sorted(found) == sorted(expected, key=lambda row: row[:2])
    assert len(found) > sum(map(len, before.values()))


def test_a_tracker_that_cannot_work_is_told_before_anything_is_made(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    refused = cli("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--out", tmp_path / "run", "--report_to", "tensorbord")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        "selfalign: --report_to tensorbord: no such tracker; there are tensorboard, trackio, mlflow, wandb"
    ]
    assert not (tmp_path / "run").exists()

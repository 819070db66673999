"""Trackers get what the record holds, each figure once, and nothing that belongs to a person or a machine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import RunFailed, UserError
from selfalign.protocols import TrainResult
from selfalign.record.store import Store
from selfalign.tracking.figures import NOTE, figures, reporting, shareable
from selfalign.tracking.trackers import TRACKERS, Wandb, check_trackers
from selfalign.types import Dropped, Example, Metric, ModelRef
from tests.files import scalars

IDENTITY = {
    "name": "test",
    "engine": {
        "part": "selfalign.engines.hf.HF",
        "url": "https://user:pw@host:80/v1?key=1",
        "api_key": "hunter2",
        "max_tokens": 9,
    },
    "filters": [{"part": "a.Length", "words": [1, 2]}],
    "model": "/home/someone/models/small",
}


def begin(store: Store) -> None:
    store.add_seeds([Example("s0", "A?", "one two"), Example("s1", "B?", "one", slot=1)], ())
    store.add_model(0, ModelRef("some/name"))
    store.finish_evaluation(0, [Metric("refusal", 0.25, 0.125, math.inf, 8)], 1.0)


def first_round(store: Store) -> None:
    made = [Example(f"r{i}", f"P{i}", "a b", 1, i) for i in range(4)]
    store.finish_round_samples(1, made[:3], [Dropped(made[3], "novelty", "near")], 4)
    result = TrainResult(ModelRef("some/name", "/x"), ("s0",), (), steps=3, tokens=30, seed_weight=0.5, losses=(3.0, 2.0, 1.5))
    store.add_model(1, result.model, {}, result)
    store.finish_evaluation(1, [Metric("refusal", 0.5, 0.375, 0.625, 8)], 1.0)


def second_round(store: Store) -> None:
    made = [Example("q0", "P", "a b", 2, 0)]
    store.finish_round_samples(2, made, [], 1)
    result = TrainResult(ModelRef("some/name", "/y"), ("s0",), (), steps=2, tokens=20, seed_weight=0.5, losses=(1.0, 0.5))
    store.add_model(2, result.model, {}, result)
    store.finish_evaluation(2, [Metric("refusal", 0.75, 0.625, 0.875, 8)], 1.0)
    store.finish_run(2, "all 2 rounds done")


EXPECTED = {
    "metrics/refusal": [(0, 0.25), (1, 0.5), (2, 0.75)],
    "metrics/refusal_low": [(0, 0.125), (1, 0.375), (2, 0.625)],
    "metrics/refusal_high": [(1, 0.625), (2, 0.875)],
    "samples/candidates": [(1, 4.0), (2, 1.0)],
    "samples/kept": [(1, 3.0), (2, 1.0)],
    "samples/kept_share": [(1, 0.75), (2, 1.0)],
    "samples/dropped": [(1, 1.0), (2, 0.0)],
    "samples/dropped_by_novelty": [(1, 1.0)],
    "training/loss": [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0), (5, 0.5)],
    "training/steps": [(1, 3.0), (2, 2.0)],
    "training/tokens": [(1, 30.0), (2, 20.0)],
    "best_round": [(2, 2.0)],
}
"""Name to (step, value), of the whole run."""


def tracked(folder: Path, tracker: str) -> None:
    """A run that dies in its second round, is gone on with, and is then asked for once more."""
    with pytest.raises(RunFailed), Store.open(folder, IDENTITY) as store, reporting(folder, (tracker,)) as progress:
        assert progress is not None
        begin(store)
        progress.start("round 1: propose", 4)
        progress.advance(4)
        progress.finish()
        first_round(store)
        progress.start("round 2: propose", 1)
        raise RunFailed("out of memory")
    with Store.open(folder, IDENTITY) as store, reporting(folder, (tracker,)):
        second_round(store)
    with reporting(folder, (tracker,)):
        pass


def test_the_record_gives_all_figures_of_a_run(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", IDENTITY) as store:
        begin(store)
        assert list(figures(store)) == ["round 0: metric refusal"]
        first_round(store)
        second_round(store)
        found: dict[str, list[tuple[int, float]]] = {}
        for point in (point for points in figures(store).values() for point in points):
            assert (point.axis == "step") == (point.name == "training/loss")
            found.setdefault(point.name, []).append((point.step, point.value))
    assert found == EXPECTED


def test_tensorboard_has_each_figure_once(tmp_path: Path) -> None:
    tracked(tmp_path / "run", "tensorboard")
    assert scalars(tmp_path / "run") == EXPECTED
    sent = json.loads((tmp_path / "run" / NOTE).read_text())["tensorboard"]["sent"]
    assert len(sent) == len(set(sent))


def test_trackio_has_each_figure_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs trackio: pip install trackio")
    from trackio.sqlite_storage import SQLiteStorage

    tracked(tmp_path / "run", "trackio")
    name = json.loads((tmp_path / "run" / NOTE).read_text())["trackio"]["run"]
    found: dict[str, list[tuple[int, float]]] = {}
    for row in SQLiteStorage.get_logs("selfalign", name):
        for key in row.keys() & EXPECTED.keys():
            found.setdefault(key, []).append((row["step"], row[key]))
    assert {key: sorted(points) for key, points in found.items()} == EXPECTED


def test_mlflow_has_each_figure_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    mlflow: Any = pytest.importorskip("mlflow", reason="needs mlflow: pip install mlflow")
    tracked(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("selfalign").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "…/small"
    found = {name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)] for name in EXPECTED}
    assert {name: sorted(points) for name, points in found.items()} == EXPECTED


def test_wandb_writes_offline_and_tells_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    tracked(tmp_path / "run", "wandb")
    written = b"".join(path.read_bytes() for path in (tmp_path / "run" / "wandb").rglob("*.wandb"))
    for name in ("metrics/refusal", "samples/dropped_by_novelty", "training/loss", "best_round"):
        assert name.encode() in written
    for private in (str(tmp_path), "/home/someone", "hunter2", "user:pw"):
        assert private.encode() not in written


def test_a_tracker_that_fails_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    with Store.open(folder, IDENTITY) as store, reporting(folder, ("tensorboard",)) as progress:
        assert progress is not None
        begin(store)
        (folder / "tensorboard").write_text("in the way")
        for stage in ("one", "two"):
            progress.start(stage, 1)
        first_round(store)
        second_round(store)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("selfalign: --report_to tensorboard failed (")
    (folder / "tensorboard").unlink()
    with reporting(folder, ("tensorboard",)):
        pass
    assert scalars(folder) == EXPECTED


def test_without_trackers_nothing_is_touched(tmp_path: Path) -> None:
    with reporting(tmp_path / "none", ()) as progress:
        assert progress is None
    assert not (tmp_path / "none").exists()


def test_options_tell_no_secrets_and_no_paths() -> None:
    assert shareable(IDENTITY) == {
        "name": "test",
        "engine.part": "selfalign.engines.hf.HF",
        "engine.url": "https://host:80/v1",
        "engine.api_key": "(left out)",
        "engine.max_tokens": "9",
        "filters.1.part": "a.Length",
        "filters.1.words": "[1, 2]",
        "model": "…/small",
    }
    for value, shown in (
        ("HuggingFaceTB/SmolLM2", "HuggingFaceTB/SmolLM2"),
        ("./here/model", "./here/model"),
        ("~/my models/tiny", "…/tiny"),
        ("~someone/tiny", "…/tiny"),
        ("file:///srv/a/b.csv", "…/b.csv"),
        ("answer and/or refuse", "answer and/or refuse"),
        ("x" * 600, "x" * 499 + "…"),
        (["/a/b", "c"], "[…/b, c]"),
        ("python /opt/secret/judge.py", "python …/judge.py"),
        ("/data", "/data"),
        ("refund=function:/home/me/checks.py:is_polite", "refund=function:…/checks.py:is_polite"),
        ("true / false / unknown", "true / false / unknown"),
        (["</s>", "a <b>c</b>"], "[</s>, a <b>c</b>]"),
    ):
        assert shareable({"a": value}) == {"a": shown}
    for name in ("token", "hf_token", "openai_api_key", "Authorization", "db_password"):
        assert shareable({"headers": {name: "s3cret"}}) == {f"headers.{name}": "(left out)"}


def test_trackers_are_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_trackers(None) == check_trackers("") == ()
    assert check_trackers(" tensorboard,tensorboard ") == ("tensorboard",)
    with pytest.raises(UserError, match="--report_to tensorbord: no such tracker; there are tensorboard, trackio, mlflow, wandb"):
        check_trackers("tensorbord")
    monkeypatch.setitem(TRACKERS, "wandb", (Wandb, ("no_such_package",)))  # type: ignore[index]  # a mapping to everyone else
    with pytest.raises(UserError, match="--report_to wandb needs no_such_package: pip install no_such_package"):
        check_trackers("wandb")


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    (tmp_path / NOTE).write_text('{"tensorboard": []}')
    with pytest.raises(UserError, match=r"tracking\.json is damaged .*: delete it"), reporting(tmp_path, ("tensorboard",)):
        pass

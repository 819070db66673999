"""`--keep_weights`: whose weights stay while a run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.record.store import Store
from tests.conftest import Run
from tests.e2e.test_extend import file_of, pair, run


def there(out: Path) -> list[str]:
    return sorted(path.parent.name for path in out.glob("round-*/model"))


def test_weights_that_nothing_needs_are_removed_and_the_run_goes_on_as_with_them(
    seeds_file: Path, tmp_path: Path, cli: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    some, whole, killed = (tmp_path / name for name in ("some", "all", "killed"))
    assert run(seeds_file, some, "--rounds", "3") == 0 and run(seeds_file, whole, "--rounds", "3", "--keep_weights", "all") == 0
    with Store.read(some) as store, Store.read(whole) as other:
        best = store.state()["best_round"]
        assert there(whole) == ["round-01", "round-02", "round-03"] and other.state() == store.state()
        assert there(some) == sorted({f"round-0{best}", "round-03"}) != there(whole)
        gone = [data["round"] for _, kind, data in store.events() if kind == "removed"]
        assert gone == [1, 2] and store.model(1).hash == other.model(1).hash
    assert main(["export", str(some), "--round", "1", "--model", str(tmp_path / "model")]) == 2
    assert (
        "the weights of round 1 of" in (said := capsys.readouterr().err)
        and "--keep_weights all" in said
        and "damaged" not in said
    )
    assert main(["chat", str(some), "--round", "1"]) == 2 and "were removed" in capsys.readouterr().err

    assert run(seeds_file, some, "--rounds", "4") == 0 and run(seeds_file, whole, "--rounds", "4", "--keep_weights", "all") == 0
    begun = run(seeds_file, killed, "--rounds", "2")
    command = ("run", "--config", killed / "run.yaml", "--rounds", 4, "--quiet")
    assert begun == 0 and cli(*command, SELFALIGN_FAULT_AT="remove.after-commit").returncode < 0
    assert there(killed) == ["round-02", "round-03"]  # the record says that those of round 2 are removed
    assert cli(*command).returncode == 0
    for out in (whole, killed):
        for name in ("round-03/kept.jsonl", "round-04/kept.jsonl", "round-04/metrics.json"):
            assert (out / name).read_bytes() == (some / name).read_bytes()
    assert there(killed) == there(some) and len(there(whole)) == 4


@pytest.mark.parametrize(("keep", "left"), [("last", ["round-01", "round-02"]), ("best", ["round-01"])])
def test_the_weights_of_a_round_that_was_rolled_back_go_where_the_best_alone_are_kept(
    keep: str,
    left: list[str],
    seeds_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    moody = ("run", f"{Path(__file__).parent}/guarded_recipe.py:moody", str(seeds_file), "--model", "scripted", "--quiet")
    assert main([*moody, "--keep_weights", keep, "--out", str(out)]) == 0
    with Store.read(out) as store:
        assert store.state()["best_round"] == 1 and [data["round"] for _, kind, data in store.events() if kind == "removed"] == (
            [2] if keep == "best" else []
        )
    assert there(out) == left
    assert "no round follows" not in caplog.text
    assert main([*moody, "--keep_weights", keep, "--out", str(out), "--rounds", "5"]) == 0  # nothing of it is needed again
    assert "no round follows round 2, which was rolled back: begin a new run" in caplog.text
    assert there(out) == left
    more = file_of(tmp_path / "more.jsonl", pair("curtain"))
    assert main(["extend", str(out), str(more), "--rounds", "6"]) == 2
    assert f"one file: `selfalign run RECIPE ALL.jsonl --config {out}/run.yaml --out NEW`" in capsys.readouterr().err

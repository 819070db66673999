"""Coming back to a run: more rounds on the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.record.status import warnings
from selfalign.record.store import Store
from tests.conftest import SCRIPTED

SMALL = ("--per_round", "16", "--demonstrations", "4", "--min_yield", "0", "--quiet", "--evaluate", "shipped")


def run(seeds: Path, out: Path, *more: str) -> int:
    return main(["run", "isara", str(seeds), *SCRIPTED, *SMALL, "--out", str(out), *more])


def written(out: Path) -> dict[str, object]:
    """All that a run makes, by name, without times and without what `--evaluate shipped` measured."""
    with Store.read(out) as store, store.snapshot() as connection:
        tables = {
            "samples": "SELECT * FROM samples ORDER BY number",
            "demonstrations": "SELECT * FROM demonstrations ORDER BY 1, 2, 3",
            "outputs": "SELECT round, stage, slot, id, data FROM outputs WHERE stage NOT LIKE 'evaluate%' ORDER BY 1, 2, 3",
            "models": "SELECT round, hash, manifest, training FROM models ORDER BY round",
            "validation": "SELECT * FROM metrics WHERE name LIKE 'validation%' ORDER BY 1, 2",
        }
        found: dict[str, object] = {name: connection.execute(query).fetchall() for name, query in tables.items()}
        state = store.state()
    kept = {path.parent.name: path.read_bytes() for path in out.glob("round-*/kept.jsonl")}
    return {**found, "kept": kept, "state": (state["state"], state["best_round"], state["stopped_because"])}


def test_rounds_added_later_are_those_of_a_run_begun_with_them(
    seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later, whole = tmp_path / "later", tmp_path / "whole"
    assert run(seeds_file, later, "--rounds", "1", "--steps", "[3]") == 0
    first = (later / "round-01" / "kept.jsonl").read_bytes()
    assert run(seeds_file, later, "--rounds", "3", "--steps", "[3,4,5]", "--json") == 0
    assert run(seeds_file, whole, "--rounds", "3", "--steps", "[3,4,5]") == 0
    assert written(later) == written(whole) and (later / "round-01" / "kept.jsonl").read_bytes() == first
    assert "rounds: 3" in (later / "run.yaml").read_text()
    capsys.readouterr()
    assert main(["status", str(later)]) == 0
    told = "rounds: raised from 1 to 3, when the run was done with round 1 as its best"
    assert told in " ".join(capsys.readouterr().out.split())
    with Store.read(later) as store:
        assert [data["text"] for _, kind, data in store.events() if kind == "rounds"] == [told.removeprefix("rounds: ")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--rounds", "1"), "rounds = 2, now 1 (rounds can be added to a run, not taken away)"),
        (("--rounds", "3", "--seed", "5"), "seed = 0, now 5"),
        (("--rounds", "3", "--steps", "[1,2,3]"), "steps = [], now [1,2,3]"),
    ],
)
def test_fewer_rounds_or_more_rounds_with_something_else_are_refused(
    changed: tuple[str, ...], said: str, seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(seeds_file, tmp_path / "run", "--rounds", "2") == 0
    before = json.dumps(Store.read(tmp_path / "run").events())
    capsys.readouterr()
    assert run(seeds_file, tmp_path / "run", *changed) == 2
    line = capsys.readouterr().err
    assert said in line and len(line.strip().splitlines()) == 1
    assert json.dumps(Store.read(tmp_path / "run").events()) == before


def test_what_was_found_of_all_rounds_is_found_anew_when_some_are_added(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", {"name": "mine", "rounds": 1}) as store:
        store.event("oscillation", {"text": "refusal turned round"})
        store.finish_run(1, "done")
        assert warnings(store) == ["oscillation: refusal turned round"]
    with Store.open(tmp_path / "run", {"name": "mine", "rounds": 2}) as store:
        assert warnings(store) == ["rounds: raised from 1 to 2, when the run was done with round 1 as its best"]
        assert store.state() == {}
        store.event("oscillation", {"text": "another one"})
        assert "oscillation: another one" in warnings(store)

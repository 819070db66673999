"""`selfalign forget`: a run again without some of its samples and what came of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.record.forget import forget
from selfalign.record.status import warnings
from selfalign.record.store import Store
from tests.conftest import Run
from tests.e2e.test_extend import run


@pytest.fixture
def done(seeds_file: Path, tmp_path: Path) -> Path:
    held = tmp_path / "held.jsonl"
    held.write_text('{"prompt": "What holds a roof up?", "response": "Its beams do."}\n' * 1, encoding="utf-8")
    assert run(seeds_file, tmp_path / "run", "--held_out", str(held), "--rounds", "3") == 0
    return tmp_path / "run"


def test_what_came_of_it_is_made_anew_and_what_came_before_stays(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in done.glob("round-*/*.json*")}
    with Store.read(done) as store:
        first, second = (store.kept(round) for round in (1, 2))
        gone, other = second[1], second[0]
        counts = {round: (len(store.kept(round)), len(store.dropped(round))) for round in (1, 2, 3)}
        metrics = store.metrics(1)
    out = tmp_path / "without"
    assert main(["forget", str(done), gone.id, "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"1 sample of the run run forgotten: round 2 is trained again without them, and {sum(counts[3])} candidates" in said
    assert {path: path.read_bytes() for path in before} == before, "the run itself stays"
    with Store.read(out) as store, store.snapshot() as connection:
        assert store.state()["state"] == "done" and store.kept(1) == first and store.metrics(1) == metrics
        dropped = {drop.example.id: (drop.rule, drop.evidence) for drop in store.dropped(2)}
        assert dropped[gone.id] == ("forgotten", "asked for") and other in store.kept(2)
        assert (len(store.kept(2)), len(store.dropped(2))) == (counts[2][0] - 1, counts[2][1] + 1)
        assert store.stage(2, "filter")["kept"] == counts[2][0] - 1  # type: ignore[index]
        met = "SELECT t.round, count(*) FROM training t JOIN samples s ON s.number = t.sample WHERE s.id = ? GROUP BY 1"
        assert connection.execute(met, (gone.id,)).fetchall() == []
        assert dict(connection.execute(met, (other.id,)).fetchall()).keys() >= {2}
        shown = "SELECT count(*) FROM demonstrations d JOIN samples s ON s.number = d.demonstration WHERE s.id = ?"
        assert connection.execute(shown, (gone.id,)).fetchone() == (0,)
        assert Counter(each.round for each in (*store.kept(3), *(drop.example for drop in store.dropped(3)))) == {3: 8}
        assert any(text.startswith("forgotten: 1 sample of the run run") for text in warnings(store))
    assert gone.id not in (out / "round-02" / "kept.jsonl").read_text(encoding="utf-8")
    assert main(["run", "--config", str(done / "run.yaml"), "--out", str(out), "--quiet"]) == 0  # and nothing is left to do


def test_nothing_of_the_old_model_is_read_back(done: Path, tmp_path: Path) -> None:
    with Store.read(done) as store:
        id, candidates = store.kept(2)[0].id, {each.id for each in (*store.kept(2), *(d.example for d in store.dropped(2)))}
    made = forget(done, [id, id], tmp_path / "copy")
    assert (made.ids, made.followers, made.round) == ((id,), (), 2)
    with Store.read(tmp_path / "copy") as store, store.snapshot() as connection:
        assert store.state() == {} and store.metrics(2) == [] and store.metrics(1)
        # The weights of round 1, which round 2 starts from, were removed: they are trained again.
        assert [round for (round,) in connection.execute("SELECT round FROM models ORDER BY 1")] == [0]
        journaled = connection.execute("SELECT stage, id FROM outputs WHERE round = 2").fetchall()
        assert {stage for stage, _ in journaled} == {"propose", "respond"} and {id for _, id in journaled} == candidates
        left = connection.execute("SELECT max(round) FROM outputs UNION SELECT max(round) FROM samples").fetchall()
        assert left == [(2,)]


def test_second_turns_go_with_their_first(seeds_file: Path, tmp_path: Path) -> None:
    assert run(seeds_file, tmp_path / "run", "--second_turns.share", "1", "--rounds", "1") == 0
    with Store.read(tmp_path / "run") as store:
        second = next(each for each in store.kept(1) if each.history)
        kept = {each.id for each in store.kept(1)}
    first = second.prompt_demonstrations[0].id
    made = forget(tmp_path / "run", [first], tmp_path / "copy")
    assert made.followers == (second.id,) and made.remade == 0
    with Store.read(tmp_path / "copy") as store:
        assert {each.id for each in store.kept(1)} == kept - {first, second.id}


def test_killed_on_the_way_it_is_whole_or_not_there(done: Path, cli: Run, tmp_path: Path) -> None:
    with Store.read(done) as store:
        id = store.kept(1)[0].id
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert main(["forget", str(done), id, "--out", str(whole), "--quiet"]) == 0
    command = ("forget", done, id, "--out", other, "--quiet")
    assert cli(*command, SELFALIGN_FAULT_AT="forget.before-rename").returncode < 0 and not other.exists()
    assert cli(*command, SELFALIGN_FAULT_AT="filter.before-commit").returncode < 0 and other.exists()  # in round 2
    assert cli("run", "--config", other / "run.yaml", "--out", other, "--quiet").returncode == 0
    for name in ("round-01/dropped.jsonl", "round-02/kept.jsonl", "round-03/dropped.jsonl", "round-03/metrics.json"):
        assert (other / name).read_bytes() == (whole / name).read_bytes()


def test_what_cannot_be_forgotten_is_told_in_one_line(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.read(done) as store:
        seed, held = store.seeds()[0].id, store.validation_seeds()[0].id
        kept, dropped = store.kept(1)[0].id, store.dropped(1)[0]
    new = str(tmp_path / "new")
    for arguments, said in (
        ((str(done), seed, "--out", new), f"{seed} is a seed, and every round was trained on it or shown it"),
        ((str(done), held, "--out", new), f"no model was trained on {held}"),
        ((str(done), dropped.example.id, "--out", new), f"it was dropped by {dropped.rule}"),
        ((str(done), kept, "nobody", "--out", new), "has no sample 'nobody'"),
        ((str(done), kept, "--out", str(done)), "is there already"),
        ((str(done), kept), "where to?"),
        ((str(done), "--out", new), "which samples"),
        ((str(tmp_path / "nothing"), kept, "--out", new), "is not a run folder"),
    ):
        assert main(["forget", *arguments]) == 2
        line = capsys.readouterr().err
        assert said in line and line.count("\n") == 1, line
    assert not Path(new).exists() and json.loads((done / "round-01" / "metrics.json").read_text())

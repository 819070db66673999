"""`selfalign extend`: more seeds for the coming rounds of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.record.joined import joined
from selfalign.record.lock import locked
from selfalign.record.status import warnings
from selfalign.record.store import Store
from tests.conftest import SCRIPTED
from tests.files import write_rows

SMALL = ("--per_round", "8", "--demonstrations", "3", "--min_yield", "0", "--quiet", "--rounds", "1")


def run(seeds: Path, out: Path, *more: str) -> int:
    return main(["run", "isara", str(seeds), *SCRIPTED, *SMALL, "--out", str(out), *more])


def file_of(path: Path, *rows: dict[str, object]) -> Path:
    return write_rows(path, rows)


def pair(thing: str, response: str = "", **more: object) -> dict[str, object]:
    answer = response or f"Take the {thing} down and wash it slowly in warm water. Then hang it in the sun for a day."
    return {"prompt": f"What keeps the {thing} of a cottage clean and bright?", "response": answer, **more}


@pytest.fixture
def done(seeds_file: Path, tmp_path: Path) -> Path:
    held = file_of(tmp_path / "held.jsonl", pair("gutter"), pair("chimney"))
    assert run(seeds_file, tmp_path / "run", "--held_out", str(held)) == 0
    return tmp_path / "run"


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_new_seeds_are_those_of_the_coming_rounds(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.read(done) as store:
        shown, validation = store.seeds(), store.validation_seeds()
    kept = (done / "round-01" / "kept.jsonl").read_bytes()
    long = "word " * 60 + "end."
    more = file_of(tmp_path / "more.jsonl", pair("curtain", long, category="care"), pair("carpet", category="care"))
    found = told(capsys, "extend", done, more, "--json")
    assert found["round"] == 2 and found["ids"] == ["more-seed-0001", "more-seed-0002"] and found["validation"] == len(validation)
    assert Store.read(done).state()["state"] == "done"  # nothing goes on before it is asked to
    assert main(["run", "--config", str(done / "run.yaml"), "--rounds", "3", "--quiet"]) == 0
    with Store.read(done) as store:
        assert store.seeds()[: len(shown)] == shown and store.validation_seeds() == validation
        assert [(round, [seed.prompt for seed in seeds]) for round, seeds in joined(store)] == [
            (2, [pair("curtain")["prompt"], pair("carpet")["prompt"]])
        ]
        with store.snapshot() as connection:
            query = "SELECT t.round FROM training t JOIN samples s ON s.number = t.sample WHERE s.id = 'more-seed-0001'"
            assert [round for (round,) in connection.execute(query)] == [2, 3]
            query = "SELECT DISTINCT s.round FROM demonstrations JOIN samples s ON s.number = sample JOIN samples d"
            query += " ON d.number = demonstration WHERE d.id LIKE 'more-%' ORDER BY 1"
            assert {round for (round,) in connection.execute(query)} <= {2, 3}
        assert "joined: 2 seeds joined for round 2 on" in warnings(store)
        first, later = (store.kept(round)[0].id for round in (1, 2))
    assert (done / "round-01" / "kept.jsonl").read_bytes() == kept
    sampling = [told(capsys, "show", done, id, "--json")["sampling"]["response"]["max_tokens"] for id in (first, later)]  # type: ignore[index]
    assert sampling[0] < sampling[1]  # the longer answer of a new seed has its room from then on
    assert told(capsys, "show", done, "more-seed-0001", "--json")["since_round"] == 2
    assert told(capsys, "show", done, shown[0].id, "--json")["since_round"] == 0
    assert main(["show", str(done), "more-seed-0001"]) == 0
    assert "seed, joined for round 2 on" in capsys.readouterr().out


def test_a_killed_run_with_new_seeds_goes_on_to_the_same_bytes(
    done: Path, seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = file_of(tmp_path / "more.jsonl", pair("curtain"), pair("carpet"))
    other = tmp_path / "other"
    assert run(seeds_file, other, "--held_out", str(tmp_path / "held.jsonl")) == 0
    assert main(["extend", str(done), str(more), "--rounds", "3", "--quiet"]) == 0
    assert main(["extend", str(other), str(more), "--rounds", "2", "--quiet"]) == 0
    assert run(seeds_file, other, "--held_out", str(tmp_path / "held.jsonl"), "--rounds", "3") == 0
    for name in ("round-02/kept.jsonl", "round-03/kept.jsonl", "round-03/dropped.jsonl", "round-03/metrics.json"):
        assert (other / name).read_bytes() == (done / name).read_bytes()


def test_what_cannot_join_is_told_in_one_line_and_changes_nothing(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.read(done) as store:
        shown, held, before = store.seeds()[0], store.validation_seeds()[0], store.events()
    turn = {"history": [[held.prompt, held.response]]}
    study = tmp_path / "study" / "isara" / "seed-0"
    study.mkdir(parents=True)
    (tmp_path / "study" / "study.yaml").write_text("recipe: isara\n")
    (study / "run.sqlite").symlink_to(done / "run.sqlite")
    (study / "run.yaml").symlink_to(done / "run.yaml")
    for folder, row, said in (
        (done, {"prompt": shown.prompt.upper(), "response": "Yes."}, f"asks the same as {shown.id}"),
        (done, pair("gutter"), "asks the same as seed"),
        (done, {"prompt": "And then what?", "response": "Rest.", **turn}, f"same conversation as {held.id}, which validates"),
        (done, {"prompt": "Why?", "response": ""}, "more.jsonl:2"),
        (tmp_path / "study", pair("roof"), "is the folder of a study"),
        (study, pair("roof"), "is an arm of the study"),
        (tmp_path / "none", pair("roof"), "is not a run folder"),
    ):
        more = file_of(tmp_path / "more.jsonl", pair("curtain"), row)
        capsys.readouterr()
        assert main(["extend", str(folder), str(more), "--rounds", "2", "--quiet"]) == 2, said
        line = capsys.readouterr().err
        assert said in line and len(line.strip().splitlines()) == 1, line
    with locked(done):
        assert main(["extend", str(done), str(file_of(tmp_path / "more.jsonl", pair("roof")))]) == 2
        assert "is in use by" in capsys.readouterr().err
    assert main(["extend", str(done)]) == 2
    with Store.read(done) as store:
        assert store.events() == before

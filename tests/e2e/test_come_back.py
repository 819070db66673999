"""Coming back to what there is: `selfalign init`, `list`, `compare`, `chat`."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.record.lock import locked
from selfalign.record.store import Store
from tests.conftest import SCRIPTED

SMALL = ("--per_round", "8", "--demonstrations", "3", "--min_yield", "0", "--quiet", "--rounds", "1")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with `shop` from `init`, a run of it, the same with another random seed and one seed more, and a study's files."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "shop"]) == 0
    small = ["--config", "shop/options.yaml", *SCRIPTED, *SMALL]
    assert main(["run", *small, "--out", "runs/a"]) == 0
    more = (
        Path("shop/seeds.yaml").read_text() + '- {prompt: "May I eat here?", response: "In the hall, yes.", category: in_scope}\n'
    )
    Path("more.yaml").write_text(more)
    assert main(["run", "isara", "more.yaml", *small, "--seed", "7", "--out", "runs/deep/b"]) == 0
    capsys.readouterr()
    return tmp_path / "runs"


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 2
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1, line
    return line


def test_init_writes_what_passes_check_and_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "city desk"]) == 0
    found = told(capsys, "check", "--config", "city desk/options.yaml", *SCRIPTED, "--json")
    assert found["stops"] == [] and found["seeds"] == 20 and found["held_out"] == 12
    assert all("judged by likeness" in text for text in found["warnings"]), found["warnings"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "city desk").iterdir()}
    (tmp_path / "city desk" / "options.yaml").unlink()
    assert "seeds.yaml is there already" in refused(capsys, "init", "city desk")
    assert {path.name for path in (tmp_path / "city desk").iterdir()} == {"seeds.yaml", "held_out.yaml"}
    assert all((tmp_path / "city desk" / name).read_bytes() == before[name] for name in ("seeds.yaml", "held_out.yaml"))
    assert "misread" in refused(capsys, "init", "a: b")
    assert "cannot be written" in refused(capsys, "init", "n" * 300)


def test_list_tells_of_runs_and_studies_in_any_state(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = runs / "study"
    arm = study / "isara" / "seed-0"
    arm.mkdir(parents=True)
    with Store.open(arm, {"name": "isara", "rounds": 2, "model": "m"}):
        pass
    (study / "study.yaml").write_text("recipe: isara\n")
    (runs / "broken").mkdir()
    (runs / "broken" / "run.sqlite").write_text("no database at all, but long enough to be looked at")
    with locked(runs / "a"):
        rows = {Path(row["folder"]).relative_to(runs).as_posix(): row for row in told(capsys, "list", runs, "--json")["runs"]}
    assert list(rows) == ["a", "broken", "deep/b", "study"]
    assert rows["a"]["state"] == "running" and rows["broken"]["state"] == "unreadable" and rows["broken"]["problem"]
    found = rows["deep/b"]
    assert (found["recipe"], found["state"], found["rounds"], found["of"], found["best_round"]) == ("isara", "done", 1, 1, 1)
    assert found["metric"]["name"] in ("balance", "log_likelihood") and found["metric"]["n"]
    assert (rows["study"]["kind"], rows["study"]["recipe"], rows["study"]["state"]) == ("study", "isara", "stopped")
    assert main(["list", str(runs)]) == 0
    assert "1 of 1" in capsys.readouterr().out
    assert [Path(row["folder"]) for row in told(capsys, "list", study, "--json")["runs"]] == [study, arm]
    assert told(capsys, "list", runs / "a" / "round-01", "--json") == {"runs": []}
    assert "is no folder" in refused(capsys, "list", runs / "none")


def test_compare_tells_where_two_runs_differ(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "compare", runs / "a", runs / "deep" / "b", "--json")
    assert {row["name"] for row in found["options"]} == {"seed", "seeds_hash"}
    assert next(row["values"] for row in found["options"] if row["name"] == "seed") == [0, 7]
    assert found["seeds"]["in_both"] == 20 and found["seeds"]["only_in"] == [[], ["seed-0021"]]
    difference = found["comparison"]["differences"]["response_words"]
    with Store.read(runs / "a") as a, Store.read(runs / "deep" / "b") as b:
        first, second = (store.outcomes(1, "response_words") for store in (a, b))
    by_hand = [two.value - one.value for one, two in zip(first, second, strict=True)]
    assert difference["difference"] == pytest.approx(sum(by_hand) / len(by_hand)) != 0 and difference["prompts"] == 12
    assert main(["compare", str(runs / "a"), str(runs / "deep" / "b")]) == 0
    out = capsys.readouterr().out
    assert "another content" in out and "only here (seed-0021)" in out and "second minus first" in out
    (runs / "held.jsonl").write_text('{"prompt": "May I whistle?", "response": "Outside."}\n')
    small = ["--config", "shop/options.yaml", *SCRIPTED, *SMALL, "--held_out", str(runs / "held.jsonl")]
    assert main(["run", *small, "--out", str(runs / "c")]) == 0
    found = told(capsys, "compare", runs / "a", runs / "c", "--json")
    assert found["comparison"] is None and "other held-out prompts" in found["not_compared"]
    assert "the same run" in refused(capsys, "compare", runs / "a", runs / "a")
    assert "is not a run folder" in refused(capsys, "compare", runs / "a", runs)


def test_chat_answers_lines_and_ends_with_them(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(*said: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in said)))

    lines("How do I clean a roof?", "", "/new", "How do I clean a roof?", "How do I clean a roof?")
    assert main(["chat", str(runs / "a"), "--against", "base", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 and set(rows[0]["answers"]) == {str(runs / "a"), "base"}
    one, other = rows[0]["answers"].values()
    assert one and other and one != other and rows[1] == rows[0]  # a new conversation begins as the first one did
    lines("How do I clean a roof?")
    assert main(["chat", "scripted", "--engine", "Scripted", "--engine.window", "40", "--eval_sampling.max_tokens", "20"]) == 0
    assert capsys.readouterr().out.startswith("> How do I clean a roof?\nscripted: ")
    lines("word " * 60, "How do I clean a roof?")
    assert main(["chat", "scripted", "--engine", "Scripted", "--engine.window", "40", "--eval_sampling.max_tokens", "20"]) == 0
    told = capsys.readouterr()
    assert "no room left" in told.err and "scripted: " in told.out
    assert main(["run", "pretrained", "shop/seeds.yaml", *SCRIPTED[:4], "--quiet", "--out", str(runs / "p")]) == 0
    assert "has no trained model" in refused(capsys, "chat", runs / "p")
    assert "is no run folder" in refused(capsys, "chat", "scripted", "--round", "1", "--engine", "Scripted")
    assert "the same model" in refused(capsys, "chat", "m", "--against", "m", "--engine", "Scripted")


def test_chat_ends_cleanly_when_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pressed(io.StringIO):
        def readline(self, *_: object) -> str:  # type: ignore[override]
            signal.raise_signal(signal.SIGINT)
            return "never said\n"

    monkeypatch.setattr("sys.stdin", Pressed())
    assert main(["chat", "scripted", "--engine", "Scripted"]) == 130
    told = capsys.readouterr()
    assert told.out == "\n" and told.err == ""

"""`--prompts` and `--replay` through the front door: every prompt is accounted for, and a killed run writes the same bytes."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.loop.align import align
from selfalign.recipes import isara
from selfalign.record.replay import replayed
from selfalign.record.store import Store
from selfalign.seeds.read import read_prompts, read_seeds
from selfalign.types import Example
from tests.conftest import SCRIPTED, Run
from tests.e2e.test_kill import digest, hits
from tests.files import select, write_rows

LAX = ("--ignore_seed_rules", "true")
FAULTS = (
    *("boiler leaks", "lamp flickers", "carpet stinks", "clock stops", "gutter drips", "kettle whistles", "ladder wobbles"),
    *("mirror cracks", "oven smokes", "pipe bursts", "radio hums", "sofa sags", "tap squeaks", "vase shatters"),
)
SMALL = ("--per_round", 8, "--min_yield", 0, "--quiet")
Here = Callable[..., Path]


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    """Fourteen prompts on lines 2 to 16: one twice, one answered, some with a category, some later turns."""
    asked = [f"Whom may I call whenever our {fault} at night?" for fault in FAULTS]
    rows: list[dict[str, Any]] = [{"prompt": text} for text in asked]
    for row in rows[2::3]:
        row["category"] = "care"
    for row in rows[3::3]:
        row |= {"history": [["Hello, are you there?", "I am."]], "system": "Be brief."}
    rows[4]["response"] = "Call a plumber at once."
    rows.append({"prompt": asked[0].upper()})
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def here(seeds_file: Path, tmp_path: Path) -> Here:
    """A run in this process; its folder."""

    def run(recipe: str, name: str, *options: object, code: int = 0) -> Path:
        given = (recipe, seeds_file, *SCRIPTED, *SMALL, "--out", tmp_path / name, *options)
        assert main(["run", *map(str, given)]) == code
        return tmp_path / name

    return run


def candidates(out: Path, round: int) -> list[Example]:
    with Store.read(out) as store:
        return [*store.kept(round), *(drop.example for drop in store.dropped(round))]


def given(examples: list[Example]) -> list[Example]:
    return [example for example in examples if example.metadata.get("source") == "given"]


def test_prompts_and_held_out_answers_in_another_language_are_told(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    things = ("la fenêtre cassée", "mon vieux vélo", "cette lampe de cuisine", "le robinet qui fuit")
    asked = [f"Comment puis-je réparer {each} sans trop dépenser d'argent ?" for each in things]
    french = write_rows(tmp_path / "french.jsonl", [{"prompt": text} for text in asked])
    answers = [f"Commencez par regarder {each}, puis appelez un artisan du quartier." for each in things]
    english = [f"How may I repair number {at} of my old garden chairs without much money?" for at in range(4)]
    rows = [{"prompt": text, "response": answer} for text, answer in zip(english, answers, strict=True)]
    told = cli("check", "isara", seeds_file, *SCRIPTED, "--prompts", french, "--held_out", write_rows(tmp_path / "t.jsonl", rows))
    assert "warning: 4 of 4 given prompts are in another language (fr) than the seeds' prompts (en)" in told.stdout
    assert "warning: 4 of 4 held-out responses are in another language (fr) than the seeds' responses (en)" in told.stdout


def test_a_killed_run_goes_on_to_the_same_bytes(cli: Run, seeds_file: Path, prompts_file: Path, tmp_path: Path) -> None:
    fed = ("--prompts", prompts_file, "--prompts_share", 0.5, "--replay", 6, "--engine.batch_size", 4)
    options = ("isara", seeds_file, *SCRIPTED, *SMALL, *fed)
    points = hits(tmp_path, *options, "--out", tmp_path / "whole")
    wanted = digest(tmp_path / "whole", cli)
    replay = points[: points.index("replay.before-commit")].count("batch.after-commit")
    for name in (f"batch.after-commit:{replay - 1}", "filter.before-commit:2"):
        run = ("run", *options, "--out", tmp_path / name)
        assert cli(*run, SELFALIGN_FAULT_AT=name).returncode == -signal.SIGKILL, name
        assert cli(*run).returncode == 0
        assert digest(tmp_path / name, cli) == wanted, name


def test_given_prompts_are_told_and_taken_once(here: Here, prompts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here("isara", "out", "--prompts", prompts_file, "--prompts_share", 0.5)
    rounds = [candidates(out, round) for round in (1, 2)]
    assert [len(made) for made in rounds] == [8, 8] and [len(given(made)) for made in rounds] == [4, 4]
    lines = [line.strip() for line in prompts_file.read_text().split("\n")]
    taken = [example for made in rounds for example in given(made)]
    assert len({example.prompt for example in taken}) == 8
    assert 0 < sum(bool(example.history) for example in taken) < 8 > sum("category_by" in each.metadata for each in taken) > 0
    for example in taken:
        row = json.loads(lines[int(example.metadata["line"]) - 1])
        assert example.prompt == row["prompt"] and [list(turn) for turn in example.history] == row.get("history", [])
        assert example.response != row.get("response") and not example.prompt_demonstrations
        assert example.category == row.get("category", example.category) and example.category in ("care", "repair")
        assert example.metadata.get("category_by", "") == ("" if "category" in row else "the 5 nearest seeds")
        assert example.system == row.get("system", "")
    with Store.read(out) as store:
        said = [data["text"] for _, kind, data in store.events() if kind == "given"]
    wanted = ("1 response ignored", "1 prompt asked by an earlier row already, and taken once")
    assert all(text.startswith(f"prompts.jsonl: {start}") for text, start in zip(said, wanted, strict=True))
    capsys.readouterr()
    main(["status", str(out), "--json"])
    found = json.loads(capsys.readouterr().out)["rounds"][1]["given"]
    assert found == {"candidates": 4, "kept": sum(each.id in _kept(out) for each in given(rounds[0]))}
    main(["show", str(out), taken[0].id])
    assert "prompt (given)" in capsys.readouterr().out


def _kept(out: Path) -> set[str]:
    with Store.read(out) as store:
        return {example.id for example in store.kept(1)}


def test_a_file_that_is_used_up(here: Here, prompts_file: Path) -> None:
    out = here("isara", "alone", "--prompts", prompts_file, "--rounds", 4)
    assert [len(candidates(out, round)) for round in (1, 2, 3)] == [8, 6, 0]
    with Store.read(out) as store:
        assert "finds no given prompt left" in store.state()["stopped_because"]
        assert any("6 candidates instead of 8" in data["text"] for _, kind, data in store.events() if kind == "given")
    out = here("self_distill", "taught", "--prompts", prompts_file, "--rounds", 6, *LAX)
    assert [len(candidates(out, round)) for round in range(1, 5)] == [8, 6, 0, 0]
    learned = select(
        out, "SELECT t.round, count(*) FROM training t JOIN samples s ON s.number = t.sample AND s.round = 0 GROUP BY 1"
    )
    with Store.read(out) as store:
        stopped, best = store.state()["stopped_because"], store.state()["best_round"]
        assert learned == [(3, len(store.seeds()))], "the round behind the last prompts ends the training with the seeds"
    assert "round 4 finds no given prompt left" in stopped and (best == 3 or "which round 3 teaches" in stopped)
    out = here("isara", "shared", "--prompts", prompts_file, "--prompts_share", 0.75, "--rounds", 3)
    made = [candidates(out, round) for round in (1, 2, 3)]
    assert [len(each) for each in made] == [8, 8, 8] and [len(given(each)) for each in made] == [6, 6, 2]


def test_the_filters_see_given_prompts(here: Here, seeds_file: Path, tmp_path: Path) -> None:
    seed = json.loads(seeds_file.read_text().splitlines()[0])["prompt"]
    rows = [
        "Which of the old tools should I throw away this spring?",
        "Which of the old tools should I throw out this spring?",
        seed,
    ]
    path = tmp_path / "near.csv"
    path.write_text("prompt\n" + "".join(f"{row}\n" for row in rows))
    out = here(
        "isara", "out", "--prompts", path, "--rounds", 1, "--validation_share", 0, "--prompt_filters.novelty.learn", "false", *LAX
    )
    with Store.read(out) as store:
        rules = Counter(drop.rule for drop in store.dropped(1) if drop.example.metadata.get("source"))
    assert rules["not_novel"] == 2


def test_prompts_of_validation_seeds_are_told_and_dropped(
    here: Here, seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"prompt": json.loads(row)["prompt"]}) + "\n" for row in seeds_file.open()))
    out = here("isara", "out", "--prompts", path, "--rounds", 1, *LAX, "--per_round", 12)
    capsys.readouterr()
    assert main(["check", "isara", *map(str, (seeds_file, *SCRIPTED, "--prompts", path))]) == 0
    with Store.read(out) as store:
        said = [data.get("text", "") for _, _, data in store.events()]
        held = {seed.prompt: seed.id for seed in store.validation_seeds()}
        asked = f"{len(held)} given prompts, such as seed-"
        drops = {drop.example.prompt: drop for drop in store.dropped(1) if drop.rule == "validation_seed"}
        assert drops.keys() == held.keys() and not any(drop.example.response for drop in drops.values())
        assert all(held[prompt] in drop.evidence for prompt, drop in drops.items()) and len(candidates(out, 1)) == 12
    assert any(text.startswith(asked) and "blur the choice of the round" in text for text in said)
    assert f"warning: {asked}" in capsys.readouterr().out


def test_prompts_of_recipes_that_reward(here: Here, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"What is {n} and {n}?", "response": f"#### {2 * n}"}) + "\n" for n in range(4))
    )
    out = here("rest_em", "out", "--prompts", path, "--samples", 3, "--rounds", 1)
    made = given(candidates(out, 1))
    assert sorted(Counter(example.prompt for example in made).values()) == [2, 3, 3]
    assert {example.scores["exact_answer"] for example in made if example.scores} <= {0.0, 1.0}
    assert any("exact_answer" in example.scores for example in made)


def test_check_tells_how_far_the_prompts_reach(
    seeds_file: Path, prompts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"prompt": "So whom may I call whenever our lamp flickers at night?"}) + "\n")
    with prompts_file.open("a") as file:
        file.write(json.dumps({"prompt": "Please, whom may I call whenever our vase shatters at night?"}))
    fed = ("--prompts", prompts_file, "--per_round", 8, "--rounds", 2, "--replay", 5, "--held_out", held_out, "--json")
    assert main(["check", "isara", *map(str, (seeds_file, *SCRIPTED, *fed))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["replay"] == 5 and found["given"]["prompts"] == 15 == found["given"]["taken"] and found["given"]["lasts"] == 1.875
    )
    assert found["given"]["near"]["seed"] == 0 and found["given"]["near"]["held_out"] >= 1 and found["given"]["near"]["other"] > 0
    assert any("finds 7 given prompts left" in text for text in found["warnings"])


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("sft", ("--prompts", "prompts.jsonl"), "recipe sft generates nothing"),
        ("dpo", ("--prompts", "prompts.jsonl"), "makes answers to be rejected"),
        ("rest_em", ("--prompts", "prompts.jsonl"), "13 such prompts"),
        ("isara", ("--prompts", "none.jsonl"), "none.jsonl: no such file"),
        ("isara", ("--prompts", "prompts.jsonl", "--prompts_share", 1.5), "prompts_share = 1.5"),
        ("isara", ("--prompts_share", 0.5), "changes nothing without --prompts"),
        ("isara", ("--prompts", "prompts.jsonl", "--held_out", "same.jsonl"), "(line 4) asks the same as held-out example"),
        ("isara", ("--replay", 3, "--replay_prompts", "same.jsonl", "--held_out", "same.jsonl"), "at most 1, the prompts"),
        ("isara", ("--replay", 1, "--replay_prompts", "same.jsonl", "--held_out", "same.jsonl"), "asks the same as held-out"),
        ("isara", ("--replay", 158), "at most 157"),
        ("isara", ("--replay_prompts", "same.jsonl"), "changes nothing without --replay"),
        ("dpo", ("--replay", 3), "learns no single answer"),
        ("pretrained", ("--replay", 3), "learns no single answer"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    recipe: str,
    options: tuple[object, ...],
    said: str,
    seeds_file: Path,
    prompts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "same.jsonl").write_text(json.dumps({"prompt": "whom may I call whenever our carpet stinks at night?"}) + "\n")
    engine = SCRIPTED[:4] if recipe == "pretrained" else SCRIPTED
    assert main(["check", recipe, *map(str, (seeds_file, *engine, *options))]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1, error


def test_no_seed_is_replayed_whether_it_is_shown_or_validates(
    seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in read_seeds(seeds_file):
        file = write_rows(tmp_path / "replay.jsonl", [{"prompt": seed.prompt}])
        options = ("--replay", "1", "--replay_prompts", str(file), "--validation_share", "0.5")
        assert main(["check", "isara", str(seeds_file), *map(str, SCRIPTED), *options]) == 2
        assert f"asks the same as seed {seed.id}" in capsys.readouterr().err


def test_another_content_is_another_run(here: Here, prompts_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fed = ("--prompts", prompts_file, "--rounds", 1)
    here("isara", "out", *fed)
    moved = prompts_file.rename(prompts_file.with_name("moved.jsonl"))
    here("isara", "out", "--prompts", moved, "--rounds", 1)
    moved.write_text(moved.read_text().replace("boiler", "kettle"))
    capsys.readouterr()
    here("isara", "out", "--prompts", moved, "--rounds", 1, code=2)
    assert "other given prompts than now" in capsys.readouterr().err


def test_replay_is_trained_on_and_nothing_else(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = here("isara", "out", "--replay", 60)
    with Store.read(out) as store, store.snapshot() as connection:
        rows = connection.execute("SELECT id, rule FROM samples WHERE verdict = 'replay'").fetchall()
        good = {id for id, rule in rows if rule is None}
        assert len(rows) == 60 and 0 < len(good) < 60, "some of the scripted engine's answers run into their tokens"
        for round in (1, 2):
            query = "SELECT s.id FROM training t JOIN samples s ON s.number = t.sample WHERE t.round = ? AND t.rule IS NULL"
            trained = {id for (id,) in connection.execute(query, (round,))}
            assert trained == good | {example.id for example in (*store.seeds(), *store.kept(round))}
        query = "SELECT count(*) FROM demonstrations d JOIN samples s ON s.number = d.demonstration WHERE s.verdict = 'replay'"
        assert connection.execute(query).fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM samples WHERE round = 1").fetchone() == (8,)
    exported = [json.loads(line) for line in (out / "round-00" / "replay.jsonl").read_text().splitlines()]
    assert {row["id"] for row in exported if not row["rule"]} == good and len(exported) == 60
    capsys.readouterr()
    assert main(["export", str(out), "--data", str(tmp_path / "data.jsonl")]) == 0
    assert "replay-" not in (tmp_path / "data.jsonl").read_text()
    capsys.readouterr()
    main(["status", str(out), "--json"])
    counts = json.loads(capsys.readouterr().out)["replay"]
    assert counts["kept"] == len(good) and counts["kept"] + sum(counts["dropped"].values()) == counts["prompts"] == 60
    assert main(["report", str(out)]) == 0


def test_replay_rows_are_compared_with_the_test(here: Here, tmp_path: Path) -> None:
    held_out, prompts = tmp_path / "held_out.jsonl", tmp_path / "replay.jsonl"
    held_out.write_text(
        json.dumps({"prompt": "Name six of the rivers that flow into the cold northern sea", "response": "None."})
    )
    asked = ("Name six of the rivers that flow into the cold northern sea, please", "What is a fjord?")
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    out = here("isara", "out", "--replay", 2, "--replay_prompts", prompts, "--held_out", held_out, "--rounds", 1)
    with Store.read(out) as store:
        near = {hit["training_text"] for _, kind, data in store.events() if kind == "overlap" for hit in data["hits"]}
        found = {metric.name: (metric.value, metric.n) for metric in store.metrics(0)}
        assert near == {asked[0]} and found["overlap_near"] == (1.0, len(store.seeds()) + 2)


def test_from_python_and_without_a_trace(seeds_file: Path, prompts_file: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from selfalign.encoders import Hashed
    from selfalign.engines import Scripted
    from selfalign.trainers import NullTrainer

    plain = replace(isara(), rounds=1, per_round=8, min_yield=0.0, engine=Scripted(), encoder=Hashed(), trainer=NullTrainer())
    assert "replay" not in plain.identity() and "prompts" not in json.dumps(plain.identity()["proposer"])
    prompts, notes = read_prompts(prompts_file)
    align(plain.with_prompts(prompts, notes=notes).with_replay(4), "scripted", read_seeds(seeds_file), tmp_path / "out")
    with Store.read(tmp_path / "out") as store:
        assert len(given(candidates(tmp_path / "out", 1))) == 8 and len(replayed(store)) <= 4
        assert store.identity()["proposer"]["prompts"].keys() == {"part", "content"}

"""The recipe ditto through the front door: its rounds, a kill, what it refuses, and how it stands in check, preview and study."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.record.store import Store
from selfalign.trainers import SFT, CrossEntropy, Ditto
from selfalign.types import preferred_to
from tests.conftest import Run
from tests.e2e.test_dpo import arms
from tests.e2e.test_kill import digest

TINY = (
    *("--engine.batch_size", "4", "--engine.dtype", "float32", "--encoder", "Hashed", "--sampling.max_tokens", "8"),
    *("--rounds", "3", "--per_round", "9", "--validation_share", "0", "--trainer.max_steps", "2", "--trainer.batch_size", "8"),
    *("--trainer.loss.start_steps", "2", "--trainer.learning_rate", "1e-3", "--trainer.precision", "fp32"),
    *("--guard.parts", "none", "--quiet"),
)


def test_rounds_refresh_the_samples_killed_or_not(cli: Run, seeds_file: Path, model_folder: Path, tmp_path: Path) -> None:
    run = ["run", "ditto", str(seeds_file), "--model", str(model_folder), *TINY, "--out"]
    assert main([*run, str(tmp_path / "whole")]) == 0
    with Store.read(tmp_path / "whole") as store, store.snapshot() as connection:
        seeds, kept = store.seeds(), {round: store.kept(round) for round in (1, 2, 3)}
        query = "SELECT t.round, s.round, t.rule FROM training t JOIN samples s ON s.number = t.sample"
        met = Counter(tuple(row) for row in connection.execute(query))
    assert [len(rows) for rows in kept.values()] == [0, 9, 9], "round 1 is the seeds'"
    assert {preferred_to(row) for rows in kept.values() for row in rows} <= {seed.id for seed in seeds}
    assert met[1, 0, None] == met[2, 0, None] + met[2, 0, "no_pair"] == 12 and met[2, 2, None] == met[3, 3, None] == 9
    older = {rule: count for (at, of, rule), count in met.items() if (at, of) == (3, 2)}
    assert sum(older.values()) == 9 and older.keys() == {None, "not_drawn"}, "some are compared again, none is lost"

    killed = cli(*run, tmp_path / "killed", SELFALIGN_FAULT_AT="train.model.after-rename")
    assert killed.returncode == 1 and "killed" in killed.stderr  # the child alone, in round 1
    assert main([*run, str(tmp_path / "killed")]) == 0
    assert digest(tmp_path / "killed", cli) == digest(tmp_path / "whole", cli)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ditto", "--rounds", "1"), "rounds = 1, must be at least 2: round 1 is the seeds'"),
        (("dpo", "--trainer.loss", "Ditto"), "rounds = 1, must be at least 2: round 1 is the seeds'"),
        (("ditto", "--start_from", "base"), "start_from = base, must be previous: round 1 is a warm-up"),
        (("ditto", "--train_seeds", "false"), "train_seeds = False, must be true where nothing is generated"),
        (("ditto", "--train_seeds", "last"), "train_seeds = last, must be true where nothing is generated"),
        (("dpo", "--train_seeds", "false"), "train_seeds = False, must be true: the seeds' answers are the better ones"),
        (("dpo", "--train_seeds", "last", "--rounds", "2"), "train_seeds = last, must be true: the seeds' answers"),
        (("contrast", "--train_seeds", "first", "--rounds", "2"), "train_seeds = first, must be true: the seeds' answers"),
        (("isara", "--per_round", "0", "--train_seeds", "last"), "train_seeds = last, must be true where nothing is generated"),
        (("self_distill", "--start_from", "base"), "must be previous: the last round alone would be left (train_seeds = last)"),
        (("self_train", "--train_seeds", "last"), "must be previous: the last round alone would be left (train_seeds = last)"),
        (("ditto", "--trainer.loss", "CrossEntropy"), "would imitate them"),
        (("ditto", "--trainer.loss.beta", "0"), "loss Ditto: beta = 0.0 is out of range"),
        (("ditto", "--prompts", "seeds.jsonl"), "makes answers to be rejected"),
        (("ditto", "--replay", "3"), "learns no single answer"),
        (("isara", "--trainer.loss", "Ditto"), "use the recipe dpo, ditto or contrast"),
    ],
)
def test_wrong_options_are_named_in_one_line(
    seeds_file: Path, tmp_path: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, *options = [str(seeds_file) if each == "seeds.jsonl" else each for each in arguments]
    plain = ("--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed", "--out", str(tmp_path / "out"))
    assert main(["run", recipe, str(seeds_file), *plain, *options]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_check_and_preview_know_that_round_one_generates_nothing(seeds_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = (str(seeds_file), "--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed")
    assert main(["check", "ditto", *plain]) == 0
    assert "generated at most: 4 rounds of 168 candidates\n" in capsys.readouterr().out
    assert main(["preview", "ditto", *plain, "--quiet", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [each["id"][:3] for each in found["samples"]] == ["r02"] * 6
    assert any("that the seeds have trained writes the candidates, from round 2 on" in text for text in found["warnings"])


def test_as_an_arm_it_keeps_its_rounds_and_steps(seeds_file: Path) -> None:
    changed = ("--trainer.lora_rank", "4", "--rounds", "3", "--per_round", "32", "--baselines", "sft,ditto")
    found = arms(seeds_file, "isara", *changed)
    ditto = found["ditto"].recipe
    assert isinstance(ditto.trainer, SFT) and isinstance(ditto.trainer.loss, Ditto) and ditto.trainer.lora_rank == 4
    assert (ditto.rounds, ditto.per_round, ditto.train_on, ditto.trainer.max_steps) == (5, 168, "all", 10)
    assert not found["ditto"].matched and found["sft"].matched == "isara"
    main_arm = arms(seeds_file, "ditto", "--baselines", "sft,dpo")
    assert main_arm["sft"].matched == main_arm["dpo"].matched == "ditto"
    assert isinstance(main_arm["sft"].recipe.trainer.loss, CrossEntropy) and main_arm["dpo"].recipe.per_round == 128
    for arm in (*found.values(), *main_arm.values()):
        arm.recipe.check()

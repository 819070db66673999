"""What a new user types first: help, a folder that is none, one with several runs, one whose run has just begun."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from selfalign import recipes
from selfalign.cli.load import load_recipe
from selfalign.cli.main import main
from selfalign.cli.recipe_help import print_help
from selfalign.cli.run import make_parser
from selfalign.export.cards import model_card
from selfalign.loop.plan import plan
from selfalign.recipes import isara
from selfalign.record import lock
from selfalign.record.store import Store
from selfalign.trainers import Distill
from selfalign.types import ModelRef
from tests.conftest import SCRIPTED

Told = pytest.CaptureFixture[str]


def a_run(folder: Path, name: str = "isara", done: bool = True) -> Path:
    with Store.open(folder, {"name": name}) as store:
        store.add_model(0, ModelRef("/cache/smollm2-135m-0.1.2", hash="h"))
        if done:
            store.finish_run(0, "all is done")
    return folder


@pytest.mark.parametrize("command", ["run", "check", "preview"])
def test_a_command_says_how_it_is_called_before_a_recipe_is_named(command: str, capsys: Told) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: selfalign {command} RECIPE SEEDS --model M") and "RECIPE is one of contrast" in said
    assert ("--out DIR" in said) == (command == "run")
    assert main([command, "isara", "--help"]) == 0
    said = capsys.readouterr().out
    assert ("\nCheck:\n  --probe  " in said) == (command == "check") and ("\n  --out " in said) == (command == "run")


@pytest.mark.parametrize("recipe", recipes.__all__)
def test_the_short_help_of_a_recipe_has_whole_sentences(recipe: str, capsys: Told) -> None:
    assert main(["run", recipe, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: selfalign run RECIPE SEEDS --model M --out DIR [options]\n\n")
    assert not [line for line in said.splitlines() if line.endswith(" …") and "by name:" not in line]
    if recipe == "isara":
        assert "Retrieval-augmented in-context generation" in said and "any, or one by its name\n" in said
        assert "K, rounds of generation and training at most\n" in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            ["--trainer.help"],
            ["SFT\n", "--trainer.full_rate 5e-05", "A wider one gets less", "--trainer.help NullTrainer"],
        ),
        (["--trainer.help=SFT"], ["--trainer.full_rate 5e-05"]),
        (["--trainer", "NullTrainer", "--trainer.help"], ["NullTrainer\n"]),
        (["--trainer.loss.help", "DPO"], ["--trainer.loss.beta 0.1", "the further the model may go"]),
        (["--filters.length.help"], ["--filters.length.min_response_words 5"]),
    ],
)
def test_a_part_says_what_it_takes_and_why(asked: list[str], said: list[str], capsys: Told) -> None:
    assert main(["run", "isara", *asked]) == 0
    found = capsys.readouterr().out
    assert not [each for each in said if each not in found], found


@pytest.mark.parametrize("recipe", ["isara", "isheep", "rest", "pretrained"])
def test_every_help_that_is_listed_helps(recipe: str, capsys: Told) -> None:
    make = load_recipe(recipe)
    parser = make_parser(make, "run")
    listed = [name for action in parser._actions for name in action.option_strings if name.endswith(".help")]
    assert "--refusal.sampling.help" in listed
    for name in listed:
        assert print_help(parser, make, [name])
        said = capsys.readouterr().out
        assert f"  {name.removesuffix('help')}" in said, (name, said)
    assert print_help(parser, make, ["--win_rate.engine.help", "OpenAI"])
    assert "--win_rate.engine.url" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["isara", "isheep_paper", "rest", "self_train", "self_guide", "pretrained"])
def test_every_option_of_a_part_says_what_it_means(recipe: str, capsys: Told) -> None:
    make = load_recipe(recipe)
    parser = make_parser(make, "run")
    groups = {action.dest for action in parser._actions if type(action).__name__ == "_ActionConfigLoad"}
    parts = {name.removesuffix(".help") for action in parser._actions for name in action.option_strings if name.endswith(".help")}
    assert {"eval_sampling", "win_rate"} <= groups and ("prompt_sampling" in groups) == (recipe not in ("rest", "pretrained"))
    for name in sorted(groups | {part.removeprefix("--") for part in parts}):
        assert print_help(parser, make, [f"--{name}.help"])
        said = capsys.readouterr().out
        bare = re.findall(rf"^  --{re.escape(name)}\.\w+(?: \S+)?$", said, re.MULTILINE)
        assert f"  --{name}." in said and not bare, (name, bare)


def test_help_names_no_default_where_there_is_none(capsys: Told) -> None:
    assert main(["run", "isara", "--help-all"]) == 0
    said = capsys.readouterr().out
    assert "type: " not in said and "default: null" not in said and "default: None" not in said
    assert "./file.py:function (required)" in said and "(default: auto)" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "isara", "--novelty.help"], "--novelty.help: no part is called so; there are "),
        (["run", "isara", "--trainer.help", "Adam"], "--trainer.help: no part named Adam; there are SFT, NullTrainer"),
        (["export"], "folder: not given; `selfalign export --help` says what it takes"),
        (["status", "one", "two"], "two: too many arguments; --help shows the usage"),
        (["status", "one", "--json=yes"], "option --json takes no value: give it by itself, or leave it out"),
        (["export", "nowhere", "--data", "x"], "nowhere is not a run folder: there is no such folder"),
        (["export", "file", "--data", "x"], "file is not a run folder: it is a file"),
        (["export", "runs", "--data", "x"], "runs is not a run folder: it holds those of several runs (one, two): name one"),
        (["export", "new", "--data", "x"], "new is not a run folder yet: its run was stopped before anything was recorded"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("new").mkdir()
    Path("new/run.sqlite").write_text("")
    for name in ("one", "two"):
        a_run(tmp_path / "runs" / name)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"selfalign: {said}") and told.count("\n") == 1


@pytest.mark.parametrize("record", [None, ""])
def test_a_reader_in_a_runs_first_instant_is_asked_to_wait(record: str | None, tmp_path: Path, capsys: Told) -> None:
    if record is not None:
        (tmp_path / "run.sqlite").write_text(record)
    with lock.locked(tmp_path):
        for command in ("status", "report", "gate"):
            assert main([command, str(tmp_path)]) == 2
            assert "its run has just begun, and nothing is recorded yet: ask again in a moment" in capsys.readouterr().err


def test_a_folder_of_runs_has_a_status(tmp_path: Path, capsys: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no name is folded
    a_run(tmp_path / "isara" / "seed-0")
    a_run(tmp_path / "sft" / "seed-0", "own[/b]", done=False)
    (tmp_path / "sft" / "seed-1").mkdir()
    (tmp_path / "sft" / "seed-1" / "run.sqlite").write_bytes(b"no database at all" * 99)
    assert main(["status", str(tmp_path), "--json"]) == 0
    found = {Path(run["folder"]).relative_to(tmp_path).as_posix(): run for run in json.loads(capsys.readouterr().out)["runs"]}
    assert {name: run["state"] for name, run in found.items()} == {
        "isara/seed-0": "done",
        "sft/seed-0": "stopped",
        "sft/seed-1": "unreadable",
    }
    assert found["isara/seed-0"]["at"] == "all is done" and "damaged" in found["sft/seed-1"]["problem"]
    assert main(["status", str(tmp_path)]) == 0
    assert "own[/b]" in (said := capsys.readouterr().out) and said.count("seed-") >= 3


def test_the_report_says_where_it_is_as_json(tmp_path: Path, capsys: Told) -> None:
    assert main(["report", str(a_run(tmp_path / "größe中")), "--json"]) == 0
    assert json.loads(said := capsys.readouterr().out) == {"report": str(tmp_path / "größe中" / "report.html")}
    assert "größe中" in said


def test_the_bundled_models_card_has_its_licence_and_base(tmp_path: Path) -> None:
    with Store.read(a_run(tmp_path / "run")) as store:
        own, given = (ModelCard(model_card(store, 0, license=license)).data.to_dict() for license in (None, "mit"))
    assert (own["license"], own["base_model"]) == ("apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert given["license"] == "mit"


def test_without_file_locks_a_run_is_read_and_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told) -> None:
    a_run(tmp_path / "run", done=False)
    monkeypatch.setattr(lock, "fcntl", None)  # Windows has none
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert main(["run", "isara", "in_scope", *SCRIPTED, "--quiet", "--out", str(tmp_path / "new")]) == 2
    assert "run selfalign in WSL" in capsys.readouterr().err


def test_bundled_prompts_go_with_seeds_of_a_file(seeds_file: Path, capsys: Told) -> None:
    assert main(["check", "isara", str(seeds_file), *SCRIPTED, "--held_out", "in_scope"]) == 0
    assert "held out: 160\n" in capsys.readouterr().out


def test_what_a_run_can_cost_is_told_before_it_costs(seeds_file: Path, tmp_path: Path, capsys: Told) -> None:
    (tmp_path / "asked.jsonl").write_text('{"prompt": "Where is it?"}\n{"prompt": "Why is that?"}\n')
    limits = ("--rounds", "2", "--per_round", "10", "--prompt_sampling.max_tokens", "30", "--sampling.max_tokens", "70")
    options = (*SCRIPTED, *limits, "--eval_sampling.max_tokens", "50", "--held_out", str(tmp_path / "asked.jsonl"))
    assert main(["check", "isara", str(seeds_file), *options]) == 0
    said = capsys.readouterr().out
    assert "cost at most: 2,000 tokens for 20 candidates, 300 tokens for 3 evaluations of the held-out prompts" in said
    assert main(["run", "isara", str(seeds_file), *options, "--out", str(tmp_path / "run"), "--max_hours", "1e-9"]) == 0
    assert "cost at most: 2,000 tokens for 20 candidates" in capsys.readouterr().err
    # Answers that can be compared are asked of the model once, shown others.
    labels = "".join(json.dumps({"prompt": f"Is {n} odd?", "response": ("no", "yes")[n % 2]}) + "\n" for n in range(40))
    (tmp_path / "labels.jsonl").write_text(labels)
    assert main(["check", "isara", str(tmp_path / "labels.jsonl"), *options, "--ignore_seed_rules", "true"]) == 0
    assert "20 candidates, 1,680 tokens for the prompts of 24 seeds asked again, 300 tokens" in capsys.readouterr().out
    # An answer to be rejected for each of the 51 shown and each kept, in each round.
    assert main(["check", "contrast", "in_scope", *options]) == 0
    assert "cost at most: 10,540 tokens for 20 candidates and 122 answers to be rejected, " in capsys.readouterr().out


def test_all_weights_take_room_for_each_round_and_for_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 200)
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    here, recipe = ModelRef(str(tmp_path)), isara()
    assert plan(recipe, here, 0)["disk_bytes"] == 2 * 200 + 40 * 100
    averaged = replace(recipe, trainer=replace(recipe.trainer, loss=Distill(teacher="ema")))
    assert plan(averaged, here, 0)["disk_bytes"] == 2 * (200 + 400) + 56 * 100
    assert plan(replace(recipe, trainer=replace(recipe.trainer, lora_rank=8)), here, 0)["disk_bytes"] == 0
    assert plan(recipe, ModelRef("org/name@0123"), 0)["disk_bytes"] is None

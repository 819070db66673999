"""The recipe dpo through the front door: what it rejects, what it exports, which options it refuses, how it stands in a study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selfalign.cli.arms import make_arms
from selfalign.cli.load import load_recipe
from selfalign.cli.main import main
from selfalign.cli.options import parse
from selfalign.cli.recipe_options import part_options
from selfalign.cli.study import study_parser
from selfalign.contracts import trial_context
from selfalign.proposers import Rivals
from selfalign.recipes import contrast, isara, sft
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds, read_with_notes
from selfalign.study.run import match_steps
from selfalign.trainers import DPO, SFT, CrossEntropy, NullTrainer
from selfalign.types import Pool, preferences
from tests.conftest import SCRIPTED, Refused, Run
from tests.files import read_rows, succeeded, write_rows


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """Eight seeds: one with two rejected answers, one whose rejected answer is the preferred one, one with a system text."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"How do I mend a {thing}?", "response": f"Glue the {thing}."}
        for thing in ("table", "chair", "bench", "stool", "shelf")
    ]
    rows[4]["system"] = "Be brief."
    chosen = [{"prompt": "Why?", "chosen": "So.", "rejected": text} for text in ("No.", "Because.")]
    same = {"prompt": "Where?", "chosen": "Here.", "rejected": " Here."}
    turns = {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}],
        "chosen": [{"role": "assistant", "content": "You."}],
        "rejected": [{"role": "assistant", "content": "Nobody."}],
    }
    path = tmp_path / "pairs.jsonl"
    return write_rows(path, (*rows, *chosen, same, turns))


def test_answers_are_rejected_exported_as_pairs_and_read_back(cli: Run, pairs_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeeded(cli("run", "dpo", pairs_file, *SCRIPTED, "--per_round", 12, "--validation_share", 0, "--out", out, "--quiet"))
    with Store.read(out) as store:
        seeds, kept, dropped = store.seeds(), store.kept(1), store.dropped(1)
    assert len(seeds) == 8, "two rejected answers to one prompt are one seed"
    assert [(drop.rule, drop.example.response) for drop in dropped] == [("same_as_preferred", "Here.")]
    given = {"No.", "Because.", "Nobody."}
    assert given < {example.response for example in kept} and len(kept) == 11
    found = preferences((*seeds, *kept))
    assert len(found) == 11
    for pair in found:
        assert pair.chosen.round == 0 < pair.rejected.round and pair.chosen.response != pair.rejected.response
        assert (pair.chosen.prompt, pair.chosen.system) == (pair.rejected.prompt, pair.rejected.system)
    asked = [pair.chosen.id for pair in found if pair.rejected.response not in given]
    assert {asked.count(seed.id) for seed in seeds[:5]} == {1, 2}, "the slots left go round the seeds that bring none"

    said = cli("export", out, "--data", tmp_path / "plain.jsonl")
    assert "8 pairs" in said.stdout and "11 rejected answers, which --format preference" in said.stdout
    assert {row["round"] for row in read_rows(tmp_path / "plain.jsonl")} == {0}
    for name in ("back.jsonl", "back.parquet"):
        assert cli("export", out, "--data", tmp_path / name, "--format", "preference", "--card").returncode == 0
        back, notes = read_with_notes(tmp_path / name)
        again = {(e.prompt, e.system, e.response): sum(column.startswith("rejected") for column in e.metadata) for e in back}
        wanted = {(pair.chosen.prompt, pair.chosen.system, pair.chosen.response) for pair in found}
        assert again.keys() == wanted and sum(again.values()) == 11
        assert any("reject one more answer" in note for note in notes)
    assert set(read_rows(tmp_path / "back.jsonl")[0]) == {"id", "round", "category", "validation", "prompt", "chosen", "rejected"}
    assert "11 pairs of a preferred and a rejected answer" in (tmp_path / "back.card.md").read_text()


def test_later_turns_that_bring_rejected_answers_are_compared_with_those(
    cli: Run, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk(thing: str, answer: str) -> list[dict[str, str]]:
        texts = (f"I have a {thing}.", "What is wrong with it?", f"The {thing} lost a leg.", answer)
        return [{"role": who, "content": text} for who, text in zip(("user", "assistant") * 2, texts, strict=True)]

    things = ("table", "chair", "bench", "stool")
    rows: list[dict[str, Any]] = [
        {"chosen": talk(each, "Glue it."), "rejected": talk(each, f"Burn the {each}.")} for each in things
    ]
    rows.append({"messages": talk("lamp", "Who knows.")})
    path, out = tmp_path / "turns.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tiny = ("--model", model_folder, "--engine.dtype", "float32", "--encoder", "Hashed", "--sampling.max_tokens", 8)
    small = (
        "--per_round",
        9,
        "--validation_share",
        0,
        "--trainer.max_steps",
        1,
        "--trainer.precision",
        "fp32",
        "--guard.parts",
        "none",
    )
    assert main(list(map(str, ("check", "dpo", path, *tiny, "--validation_share", 0)))) == 0
    told = capsys.readouterr().out
    assert "note: 'rejected': answers to which dpo and ditto prefer the seeds' own" in told and "not learned" not in told
    assert "warning: proposer asks no later turn again, so that no answer stands against 1 of the 10 seeds\n" in told
    done = cli("run", "dpo", path, *tiny, *small, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Burn the table.\n           to be rejected, as that of seed-0001 is preferred\n" in done.stderr
    with Store.read(out) as store, store.snapshot() as connection:
        seeds, kept = store.seeds(), store.kept(1)
        met = dict(connection.execute("SELECT s.id, t.rule FROM training t JOIN samples s ON s.number = t.sample").fetchall())
    brought = [pair for pair in preferences((*seeds, *kept)) if pair.chosen.history]
    assert [pair.rejected.response for pair in brought] == [f"Burn the {each}." for each in things]
    assert all((pair.rejected.history, pair.rejected.prompt) == (pair.chosen.history, pair.chosen.prompt) for pair in brought)
    rules = {(met[pair.rejected.id], met[pair.chosen.id]) for pair in brought}
    assert rules == {(None, None), ("max_steps", "max_steps")} and met["seed-0005"] == "no_pair"
    assert len(kept) == 9, "the slots left ask first turns"
    of_the_file, of_the_model = (cli("show", out, kept[place].id).stdout for place in (0, 8))
    assert "written by\n  no model: the seed file has it" in of_the_file and "sampling" not in of_the_file
    assert "written by\n  model of round 0" in of_the_model and "prompt: null" in of_the_model


def test_pairs_that_the_seeds_bring_are_never_more_than_there_are(pairs_file: Path) -> None:

    brought = tuple(seed for seed in read_seeds(pairs_file) if seed.metadata)
    context = replace(trial_context(), pool=Pool((brought,)))
    few, many = Rivals().propose(context, 2), Rivals().propose(context, 6)
    assert len(few) == 2 and all(draft.response for draft in few)
    assert [bool(draft.prompt) for draft in many] == [True] * 4 + [False] * 2 and "no more" in many[-1].metadata["problem"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dpo", "--trainer.loss", "CrossEntropy"), ("would imitate them", "trainer.loss = DPO")),
        (("isara", "--trainer.loss", "DPO"), ("makes none", "use the recipe dpo")),
        (("sft", "--trainer.loss", "DPO"), ("makes none", "use the recipe dpo")),
        (("dpo", "--trainer.loss.beta", -1), ("loss DPO: beta = -1.0 is out of range",)),
        (("dpo", "--trainer.loss", "IPO"), ("--trainer.loss: no part named IPO", "CrossEntropy, DPO")),
        (("isara", "--trainer.loss.beta", 1), ("no option --trainer.loss.beta with this class; it is one of another",)),
        (("dpo", "--trainer.loss.bta", 1), ("--trainer.loss.bta", "did you mean --trainer.loss.beta")),
        (("self_distill", "--trainer.loss", "CrossEntropy"), ("would imitate them", "trainer.loss = Distill")),
        (("self_distill", "--trainer.loss", "DPO"), ("would imitate them", "trainer.loss = Distill")),
        (("isara", "--trainer.loss", "Distill"), ("shows demonstrations to none", "use the recipe self_distill")),
        (("sft", "--trainer.loss", "Distill"), ("shows demonstrations to none", "use the recipe self_distill")),
        (("self_distill", "--trainer.loss.clip", -1), ("loss Distill: clip = -1.0 is out of range",)),
        (("self_distill", "--trainer.loss.alpha", 0.2), ("alpha = 0.2 changes nothing with kl = forward",)),
        (("self_distill", "--demonstrations", 0), ("demonstrations = 0: a teacher needs at least 1",)),
        (("self_distill", "--second_turns.share", 1), ("second_turns.share = 1.0, must be 0 where answers are to be taught",)),
    ],
)
def test_wrong_options_are_named_in_one_line(
    refused: Refused, seeds_file: Path, tmp_path: Path, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    recipe, *options = arguments
    line = refused("run", recipe, seeds_file, *SCRIPTED[:-2], *options, "--out", tmp_path / "out")
    assert all(word in line for word in words) and not (tmp_path / "out").exists(), line


def arms(seeds: Path, recipe: str, *options: str) -> dict[str, Any]:
    make = load_recipe(recipe)
    parser = study_parser(make)
    arguments = [recipe, str(seeds), "--model", "m", "--out", "o", *options]
    parsed = parse(parser, arguments, part_options(make))
    return {arm.name: arm for arm in make_arms(make, parser, parsed, arguments, read_seeds(seeds))}


def test_every_arm_of_a_study_keeps_its_own_loss(seeds_file: Path) -> None:
    own = ("--trainer.lora_rank", "4", "--trainer.learning_rate", "0.001", "--baselines", "sft,dpo")
    found = arms(seeds_file, "isara", *own)
    assert all(arm.recipe.trainer.lora_rank == 4 and arm.recipe.trainer.learning_rate == 0.001 for arm in found.values())
    assert [type(arm.recipe.trainer.loss) for arm in found.values()] == [CrossEntropy, CrossEntropy, DPO]
    assert [bool(arm.matched) for arm in found.values()] == [False, True, True]
    main = arms(seeds_file, "dpo", "--trainer.loss.beta", "0.3", "--baselines", "sft,isara")
    assert [type(arm.recipe.trainer.loss) for arm in main.values()] == [DPO, CrossEntropy, CrossEntropy]
    assert main["dpo"].recipe.trainer.loss.beta == 0.3
    assert arms(seeds_file, "sft", "--baselines", "dpo")["dpo"].recipe.per_round == 128
    null = arms(seeds_file, "isara", "--trainer", "NullTrainer", "--baselines", "dpo")
    assert null["dpo"].recipe.trainer == NullTrainer()
    for arm in (*found.values(), *main.values(), *null.values()):
        arm.recipe.check()
    assert SFT().preferences is False


def test_an_arm_of_another_loss_keeps_its_own_rates_and_rounds_but_for_what_was_changed(seeds_file: Path) -> None:
    found = arms(seeds_file, "self_distill", "--trainer.batch_size", "5", "--baselines", "sft,isara,contrast")
    assert found["self_distill"].recipe.trainer.full_rate == 1e-4
    for name, recipe in (("sft", sft()), ("isara", isara()), ("contrast", contrast())):
        own = found[name].recipe
        assert own.trainer == replace(recipe.trainer, batch_size=5)  # not a rate that suits distillation
        assert (own.rounds, own.per_round) == (recipe.rounds, recipe.per_round)
    eight: Any = SimpleNamespace(steps=(4, 4, 4, 4, 4, 4, 4, 7), best_round=8, of_round=None)
    assert match_steps(found["sft"].recipe, eight).steps == (17, 18), "as many steps, and not cut into eight short trainings"
    two: Any = SimpleNamespace(steps=(20, 15, 9), best_round=2, of_round=None)
    assert match_steps(found["sft"].recipe, two).steps == (20, 15)
    changed = arms(seeds_file, "self_distill", "--rounds", "3", "--baselines", "isara,sft")
    assert changed["sft"].recipe.rounds == sft().rounds
    assert changed["isara"].recipe.rounds == 3


def test_as_a_baseline_it_trains_as_long_as_the_loop(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    rows = [{"prompt": f"Where is a {thing}?", "response": f"The {thing} is here."} for thing in ("lamp", "boat", "radio")]
    write_rows(held, rows)
    small = ("--per_round", 8, "--min_yield", 0, "--repeats", 1, "--quiet")
    out = tmp_path / "out"
    succeeded(cli("study", "isara", seeds_file, *SCRIPTED, *small, "--held_out", held, "--baselines", "sft,dpo", "--out", out))
    arms = json.loads((out / "study.json").read_text())["arms"]
    main, sft, dpo = (arms[name]["runs"][0] for name in ("isara", "sft", "dpo"))
    assert sum(dpo["steps"]) == sum(sft["steps"]) == sum(main["steps"][: main["best_round"]] or main["steps"])
    assert len(dpo["steps"]) == 1

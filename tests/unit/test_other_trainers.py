"""What a round was trained on, in the forms of LLaMA-Factory, axolotl and TRL; the script for TRL runs."""

from __future__ import annotations

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfalign.cli.main import main
from selfalign.protocols import TrainResult
from selfalign.record.checkpoints import read_manifest
from selfalign.record.store import Store
from selfalign.trainers import DPO, SFT
from selfalign.types import PREFERRED, Dropped, Example, ModelRef
from tests.files import read_rows
from tests.tiny import tiny_model

LONG = (("Hi.", "Hello."), ("One?", "Two."))
SEEDS = [Example("s0", "Why 0?", "So 0.", slot=0), Example("s1", "Why 1?", "So 1.", slot=1, system="Be brief.", history=LONG)]
HELD = [Example("v0", "Held?", "Yes.", slot=2), Example("v1", "Held out?", "", slot=3)]
MADE = [
    Example(f"r{i}", f"Prompt {i}?", f"Answer {i}.", 1, i, metadata={PREFERRED: f"r{i - 1}"} if i % 2 else {}) for i in range(4)
]


def a_run(folder: Path, model: Path, trainer: SFT, made: list[Example], start_from: str = "base") -> Path:
    """Round 1 was trained on all but the last of what it made, which was too long. If round 2 starts from it, that one is the
    best, and the weights of round 1 are removed."""
    identity = {
        "name": "isara",
        "trainer": {**vars(trainer), "part": "selfalign.trainers.sft.SFT"},
        "start_from": start_from,
        "seed_weight": 0.25,
        "learning_rate_decay": 0.5,
        "steps": [],
        "format": "auto",
        "seed": 3,
    }
    loss = {"beta": 0.2, "label_smoothing": 0.0, "sft_weight": 1.0}
    identity["trainer"]["loss"] = {"part": f"selfalign.trainers.{type(trainer.loss).__name__}", **loss}
    with Store.open(folder, identity) as store:
        store.add_seeds(SEEDS, HELD)
        store.add_model(0, ModelRef(str(model)))
        store.finish_round_samples(1, made, [], len(made))
        place = store.round_folder(1) / "model"
        place.mkdir()
        (place / "model.safetensors").write_bytes(b"weights")
        ref, rows = ModelRef(str(place)), [*SEEDS, *made]
        dropped = (Dropped(rows[-1], "too_long", "300 tokens"),)
        result = TrainResult(ref, tuple(row.id for row in rows[:-1]), dropped, 4, 50, 0.5, (1.0,))
        store.add_model(1, ref, read_manifest(place), result)
        if start_from == "previous":
            shutil.copytree(place, store.round_folder(2) / "model")
            shutil.rmtree(place)
            newest = replace(result, model=ModelRef(str(store.round_folder(2) / "model")))
            store.add_model(2, newest.model, read_manifest(store.round_folder(2) / "model"), newest)
        store.finish_run(2 if start_from == "previous" else 1, "done")
    return folder


def export(run: Path, format: str, capsys: Any) -> tuple[Path, dict[str, Any], str]:
    out = run.parent / format
    assert main(["export", str(run), "--data", str(out), "--format", format, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    assert main(["export", str(run), "--data", str(run.parent / "again"), "--format", format]) == 0
    return out, found, capsys.readouterr().out


IMITATED = [Example(f"r{i}", f"Prompt {i}?", f"Answer {i}.", 1, i) for i in range(2)]


@pytest.mark.parametrize("format", ["llama-factory", "axolotl"])
def test_sharegpt_with_systems_and_histories(tmp_path: Path, model_folder: Path, capsys: Any, format: str) -> None:
    run = a_run(tmp_path / "run", model_folder, SFT(), IMITATED)
    out, found, said = export(run, format, capsys)
    train = read_rows(out / "train.jsonl")
    assert [row["id"] for row in train] == ["s0", "s1", "r0"] and [row["id"] for row in read_rows(out / "validation.jsonl")] == [
        "v0"
    ]
    texts = ["Be brief.", "Hi.", "Hello.", "One?", "Two.", "Why 1?", "So 1."]
    assert [turn["value"] for turn in train[1]["conversations"]] == texts
    assert [turn["from"] for turn in train[1]["conversations"]] == ["system", *(["human", "gpt"] * 3)]
    assert found["left_out"] == {"the run's training dropped it: too_long": ["r1"], "held out, without an answer": ["v1"]}
    assert found["rows"] + sum(map(len, found["left_out"].values())) + found["validation"] == len(SEEDS + HELD + IMITATED)
    assert "left out: 1 row (the run's training dropped it: too_long): r1\n" in said and "the share 0.25 of the loss" in said
    if format == "axolotl":
        assert [turn["train"] for turn in train[1]["conversations"]] == [False] * 6 + [True]
        (entry,) = yaml.safe_load((out / "axolotl.yaml").read_text())["datasets"]
        assert entry["message_field_training"] == "train" and entry["roles"]["assistant"] == ["gpt"]
    else:
        info = json.loads((out / "dataset_info.json").read_text())["selfalign_isara"]
        assert info["file_name"] == "train.jsonl" and info["tags"]["assistant_tag"] == "gpt" and "ranking" not in info
        assert "give mask_history: true" in said


@pytest.mark.parametrize("format", ["llama-factory", "axolotl", "trl"])
def test_pairs_of_a_preferred_and_a_rejected_answer(tmp_path: Path, model_folder: Path, capsys: Any, format: str) -> None:
    run = a_run(tmp_path / "run", model_folder, SFT(loss=DPO()), MADE)
    out, found, _ = export(run, format, capsys)
    (row,) = read_rows(out / "train.jsonl")
    answers = [each["value"] if format != "trl" else each[0]["content"] for each in (row["chosen"], row["rejected"])]
    assert (row["id"], answers, found["rows"]) == ("r1", ["Answer 0.", "Answer 1."], 1)
    assert sorted(id for ids in found["left_out"].values() for id in ids) == ["r2", "r3", "s0", "s1", "v0", "v1"]
    text = (out / found["files"][-1]).read_text()
    assert {"llama-factory": '"ranking": true', "axolotl": "rl: dpo", "trl": "DPOTrainer("}[format] in text
    if format == "trl":
        made = runpy.run_path(str(out / "train.py"))["main"](["--out", str(tmp_path / "trained"), "--max_steps", "1"])
        assert (made.state.global_step, made.args.beta, made.args.loss_weights) == (1, 0.2, [1.0, 1.0])


def test_the_script_for_trl_trains_the_runs_rows_with_its_settings(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfalign.models.rendering import make_renderer

    model = tiny_model(tmp_path / "model", context=512)
    trainer = SFT(method="lora", lora_rank=4, learning_rate=1e-3, batch_size=2, micro_batch=1, schedule="constant", warmup=0.5)
    out, *_ = export(a_run(tmp_path / "run", model, trainer, IMITATED), "trl", capsys)
    made = runpy.run_path(str(out / "train.py"))["main"](["--out", str(tmp_path / "trained"), "--max_steps", "2"])
    assert made.state.global_step == 2 and (tmp_path / "trained" / "adapter_config.json").is_file()
    args = made.args
    assert (args.learning_rate, args.warmup_steps, args.gradient_accumulation_steps, args.seed) == (1e-3, 1, 2, 3)
    assert made.model.peft_config["default"].r == 4
    renderer = make_renderer(made.processing_class)
    (batch,) = [made.data_collator([made.train_dataset[1]])]
    ids, labels = renderer.training_ids("Why 1?", "So 1.", LONG, "Be brief.")
    # TRL learns the line break too that the template writes behind the end of an answer.
    assert batch["input_ids"][0].tolist()[: len(ids)] == ids and batch["labels"][0].tolist()[: len(ids)] == labels


def test_what_no_other_trainer_does_is_refused(tmp_path: Path, model_folder: Path, capsys: Any) -> None:
    run = a_run(tmp_path / "run", model_folder, SFT(), IMITATED)

    def says(*given: str) -> str:
        assert main(["export", str(run), *given]) == 2
        return str(capsys.readouterr().err)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "full exists: --format trl writes a folder" in says("--data", str(tmp_path / "full"), "--format", "trl")
    assert "--card goes with --data FILE" in says("--data", str(tmp_path / "new"), "--format", "trl", "--card")
    assert "round 0 of" in says("--data", str(tmp_path / "new"), "--format", "axolotl", "--round", "0")
    run = a_run(tmp_path / "two", model_folder, SFT(), IMITATED, start_from="previous")
    told = "begins with the weights of round 1, as round 2 did, and they were removed; name --round 1, or train with --keep"
    assert told in says("--data", str(tmp_path / "new"), "--format", "trl")
    for loss, more in (("Ditto", "; --format preference writes its pairs"), ("Distill", "")):
        run = tmp_path / loss
        with Store.open(run, {"name": "own", "trainer": {"part": "x.SFT", "loss": {"part": f"x.{loss}"}}}) as store:
            store.finish_run(1, "done")
        said = says("--data", str(tmp_path / "new"), "--format", "trl")
        assert said.endswith(f"no such trainer has the loss {loss} of this run{more}\n")
    assert not (tmp_path / "new").exists()

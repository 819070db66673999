"""The preference loss against its formula, and trainings with it: accounts, kills, adapters, several devices."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfalign.errors import RunFailed, UserError
from selfalign.models.rendering import make_renderer
from selfalign.protocols import TrainJob, TrainResult
from selfalign.trainers import DPO, SFT
from selfalign.trainers._batches import Row, Unit, plan, tokenise, weigh
from selfalign.trainers._reference import NAME
from selfalign.trainers._weighted import Steps
from selfalign.types import Example, ModelRef
from tests.tiny import train_job
from tests.unit.test_sft import Quiet, gradients, weights
from tests.unit.test_sft_processes import result, two_processes

SMALL = SFT(learning_rate=1e-3, epochs=2, batch_size=2, micro_batch=1, save_every=1, precision="fp32", loss=DPO(beta=0.5))
STEPS = 6


def job(model: Path, folder: Path, **changes: object) -> TrainJob:
    """Five pairs over three seeds; a seed without a pair, a rejected answer that is too long and one to nothing."""
    seeds = [Example(f"s{i}", f"Question {i}" + "?" * i, f"Answer {i}.", slot=i) for i in range(4)]
    answers = [
        ("s0", "No."),
        ("s1", "I do not know it."),
        ("s2", "Perhaps"),
        ("s0", "Never!"),
        ("s1", "Yes"),
        ("s2", "so " * 99),
        ("x", "A"),
    ]
    rejected = [
        Example(
            f"r{i}", "Question", text, round=1, slot=i, metadata={"preferred": of}, response_finish="length" if i == 2 else "stop"
        )
        for i, (of, text) in enumerate(answers)
    ]
    prompts = {seed.id: seed.prompt for seed in seeds}
    rejected = [replace(each, prompt=prompts.get(each.metadata["preferred"], each.prompt)) for each in rejected]
    given = {"seeds": tuple(seeds), "generated": tuple(rejected), **changes}
    return train_job(ModelRef(str(model), hash="start"), folder, **given)


# ---- the loss


def log_probability(net: torch.nn.Module, row: Row) -> torch.Tensor:
    """Token by token, with all logits."""
    logits = net(input_ids=torch.tensor([row.ids])).logits[0, :-1].double().log_softmax(-1)
    return sum(logits[at, label] for at, label in enumerate(row.labels[1:]) if label != -100)  # type: ignore[return-value]


def by_the_formula(net: torch.nn.Module, pairs: list[Unit], start: list[list[float]], loss: DPO) -> torch.Tensor:
    """Mean over pairs of -(1-ε)·log σ(β·h) - ε·log σ(-β·h) - α·log π(c)/|c|, written out."""
    total = torch.zeros((), dtype=torch.float64)
    for pair, (chosen0, rejected0) in zip(pairs, start, strict=True):
        chosen, rejected = (log_probability(net, row) for row in pair.rows)
        h = loss.beta * ((chosen - chosen0) - (rejected - rejected0))
        total = total - (1 - loss.label_smoothing) * torch.log(1 / (1 + torch.exp(-h)))
        total = total - loss.label_smoothing * torch.log(1 / (1 + torch.exp(h)))
        total = total - loss.sft_weight * chosen / pair.rows[0].learned
    return total / len(pairs)


@pytest.mark.parametrize(
    ("loss", "micro", "devices"),
    [(DPO(sft_weight=0.0), 8, 1), (DPO(beta=0.7), 2, 1), (DPO(beta=0.3, label_smoothing=0.2, sft_weight=0.4), 2, 3)],
)
def test_loss_and_gradient_are_those_of_the_formula(model: Path, tmp_path: Path, loss: DPO, micro: int, devices: int) -> None:
    spec = replace(SMALL, loss=loss).spec(job(model, tmp_path))
    rows, _ = tokenise(spec["rows"], make_renderer(AutoTokenizer.from_pretrained(model)).training_ids, 256, ending=1)
    pairs, _ = loss.units(rows, spec["pairs"])
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        start = [[float(log_probability(net, row)) for row in pair.rows] for pair in pairs]
        for weight in net.parameters():  # where it starts from every preference loss is log 2
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    pairs = [replace(pair, reference=tuple(values)) for pair, values in zip(pairs, start, strict=True)]
    steps = plan(pairs, seed=0, epochs=1, max_steps=0, batch=len(pairs), micro=micro, devices=devices)
    shares = Steps(pairs, steps, weigh(pairs, 0.3), 0, devices, loss.collate)
    head, found = net.get_output_embeddings(), 0.0
    for device in range(devices):
        for batch in shares[device]["batches"]:
            each = loss.total(net, batch, head) * shares[device]["scale"] / devices
            each.backward()
            found += float(each.detach())
    ours = gradients(net)
    expected = by_the_formula(net, pairs, start, loss)
    expected.backward()
    assert len(pairs) == 5 and found == pytest.approx(float(expected), abs=1e-5)
    assert torch.allclose(ours, gradients(net), rtol=0, atol=1e-5)


def test_a_text_that_was_cut_off_is_rejected_without_an_end(model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    spec = SMALL.spec(job(model, tmp_path))
    rows, _ = tokenise(spec["rows"], make_renderer(tokenizer).training_ids, 256, ending=1)
    ends = [tokenizer.decode(row.ids[-1:]) for row in rows]
    assert ends == ["<|im_end|>"] * 6 + ["s"] + ["<|im_end|>"] * 3, "of s0 … s3, r0 … r4 and r6, r2 alone has none"


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"label_smoothing": 0.5}, {"sft_weight": math.nan}])
def test_options_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"loss DPO: {next(iter(wrong))}"):
        DPO(**wrong)


# ---- whole trainings


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, SMALL.train(job(model, folder), Quiet())


def test_every_row_is_trained_on_in_a_pair_or_dropped_by_rule(unbroken: tuple[Path, TrainResult]) -> None:
    folder, done = unbroken
    assert done.trained == ("s0", "s1", "s2", "r0", "r1", "r2", "r3", "r4")
    rules = {drop.example.id: drop.rule for drop in done.dropped}
    assert rules == {"s3": "no_pair", "r5": "too_long", "r6": "no_pair"} and all(drop.evidence for drop in done.dropped)
    assert done.steps == STEPS == len(done.losses) and done.seed_weight == 1.0
    kept = json.loads((folder / "training" / NAME).read_text())["log_probabilities"]
    assert len(kept) == 5 and all(value < 0 for pair in kept for value in pair)


def test_it_learns_the_preference_and_keeps_the_preferred_answer_probable(
    model: Path, unbroken: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    spec = SMALL.spec(job(model, tmp_path))
    rows, _ = tokenise(spec["rows"], make_renderer(AutoTokenizer.from_pretrained(model)).training_ids, 256, ending=1)
    pairs, _ = SMALL.loss.units(rows, spec["pairs"])
    kept = json.loads((unbroken[0] / "training" / NAME).read_text())["log_probabilities"]
    before, after = (AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32) for at in (model, unbroken[0] / "model"))
    with torch.no_grad():
        for pair, reference in zip(pairs, kept, strict=True):
            assert [float(log_probability(before, row)) for row in pair.rows] == pytest.approx(reference, abs=1e-4)
            moved = [float(log_probability(after, row)) - value for row, value in zip(pair.rows, reference, strict=True)]
            assert moved[0] > max(0.0, moved[1])


def test_killed_twice_it_ends_with_the_same_bits(
    model: Path, unbroken: tuple[Path, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start model is asked once: what was kept is taken, and taken alone."""
    for point, done in (("train.checkpoint.before-manifest", 0), ("train.checkpoint.after-manifest:3", 0)):
        monkeypatch.setenv("SELFALIGN_FAULT_AT", point)
        progress = Quiet()
        with pytest.raises(RunFailed, match="killed"):
            SMALL.train(job(model, tmp_path), progress)
        assert progress.seen[0] == ("start", STEPS, done), f"before the kill at {point}"
    monkeypatch.delenv("SELFALIGN_FAULT_AT")
    kept = (tmp_path / "training" / NAME).stat().st_mtime_ns
    done_again = SMALL.train(job(model, tmp_path), Quiet())
    assert (tmp_path / "training" / NAME).stat().st_mtime_ns == kept
    assert weights(tmp_path / "model") == weights(unbroken[0] / "model")
    assert done_again.losses == unbroken[1].losses


def test_an_adapter_is_measured_against_the_model_without_it_and_then_against_itself(model: Path, tmp_path: Path) -> None:
    lora = replace(SMALL, lora_rank=4, learning_rate=1e-2)
    first = lora.train(job(model, tmp_path / "one"), Quiet())
    second = lora.train(job(model, tmp_path / "two", start=first.model), Quiet())
    assert first.model.base == second.model.base == str(model)
    spec = SMALL.spec(job(model, tmp_path))
    rows, _ = tokenise(spec["rows"], make_renderer(AutoTokenizer.from_pretrained(model)).training_ids, 256, ending=1)
    pairs, _ = SMALL.loss.units(rows, spec["pairs"])
    bare = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        start = [float(log_probability(bare, row)) for pair in pairs for row in pair.rows]
        adapted = PeftModel.from_pretrained(bare, tmp_path / "one" / "model")
        later = [float(log_probability(adapted, row)) for pair in pairs for row in pair.rows]
    for folder, expected in (("one", start), ("two", later)):
        kept = json.loads((tmp_path / folder / "training" / NAME).read_text())["log_probabilities"]
        assert [value for pair in kept for value in pair] == pytest.approx(expected, abs=1e-3), folder
    assert start != pytest.approx(later, abs=0.1)


MISSING = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install 'selfalign[deepspeed]'")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", pytest.param("deepspeed", marks=MISSING)])
def test_two_processes_teach_what_one_does(
    model: Path, unbroken: tuple[Path, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Any
) -> None:
    monkeypatch.setattr("tests.unit.test_sft_processes.job", job)
    done = two_processes(tmp_path, replace(SMALL, strategy=strategy), model)
    assert done.returncode == 0, done.stderr[-2000:]
    assert result(tmp_path)["losses"] == pytest.approx(list(unbroken[1].losses), rel=1e-4)
    expected, found = (load_file(folder / "model/model.safetensors") for folder in (unbroken[0], tmp_path))
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-3, atol=2e-5)


def test_nothing_to_prefer_is_said_in_one_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"nothing to train on: all 4 rows dropped, the first one as no_pair \(no answer"):
        SMALL.train(job(model, tmp_path, generated=()), Quiet())

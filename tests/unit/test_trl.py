"""Our losses beside TRL's on a tiny model: to 1e-5 the same loss and gradient where both are asked for the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from selfalign.models.rendering import make_renderer
from selfalign.trainers import DPO, Distill
from selfalign.trainers._batches import IGNORE, Row, Weights, tokenise
from selfalign.trainers._teacher import taught_by
from tests.unit.test_distill import job as taught_job
from tests.unit.test_distill import units_of
from tests.unit.test_dpo import SMALL, log_probability
from tests.unit.test_dpo import job as compared_job
from tests.unit.test_sft import gradients

PLAIN: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
EVEN = Weights(1.0, 1.0, 1.0)


def start_and_changed(model: Path) -> tuple[Any, Any]:
    start, net = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval() for _ in range(2))
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return start, net


def split(row: Row) -> tuple[list[int], list[int]]:
    """(prompt, completion) as tokens."""
    first = next(place for place, label in enumerate(row.labels) if label != IGNORE)
    assert IGNORE not in row.labels[first:]
    return list(row.ids[:first]), list(row.ids[first:])


@pytest.mark.parametrize(
    ("pairs", "kinds"), [(5, {"loss_type": ["sigmoid"]}), (1, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]})]
)
def test_dpo_and_its_term_for_imitation(model: Path, tmp_path: Path, pairs: int, kinds: dict[str, Any]) -> None:
    """Theirs is the mean over a batch's tokens, ours over its pairs: the same for one pair."""
    tokenizer, loss = AutoTokenizer.from_pretrained(model), DPO(beta=0.5, sft_weight=0.7 if pairs == 1 else 0.0)
    spec = SMALL.spec(compared_job(model, tmp_path))
    rows, _ = tokenise(spec["rows"], make_renderer(tokenizer).training_ids, 256, ending=1)
    units = loss.units(rows, spec["pairs"])[0][:pairs]
    start, net = start_and_changed(model)
    with torch.no_grad():
        units = [replace(unit, reference=tuple(float(log_probability(start, row)) for row in unit.rows)) for unit in units]
    ours = loss.total(net, loss.collate(units, EVEN, 0), net.get_output_embeddings()) / len(units)
    ours.backward()
    slope = gradients(net)

    options = DPOConfig(str(tmp_path), beta=0.5, max_length=None, **kinds, **PLAIN)
    texts = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(net, start, args=options, train_dataset=texts, processing_class=tokenizer)
    both = [[split(row) for row in unit.rows] for unit in units]
    batch = [{"prompt_ids": chosen[0], "chosen_ids": chosen[1], "rejected_ids": rejected[1]} for chosen, rejected in both]
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(batch))
    theirs.backward()
    assert len(units) == pairs and float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert torch.allclose(slope, gradients(net), rtol=0, atol=1e-5)


def padded(rows: Sequence[Sequence[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), padded on one side."""
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    return tuple(  # type: ignore[return-value]
        torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(each, fill, strict=True)])
        for each in (rows, ones)
    )


@pytest.mark.parametrize(("kl", "alpha"), [("forward", 0.0), ("reverse", 1.0)])
def test_self_distillation_over_the_whole_vocabulary(model: Path, tmp_path: Path, kl: Any, alpha: float) -> None:
    """Theirs is the mean over answers of the mean over tokens, which ours is where every token counts the same."""
    loss = Distill(kl=kl, first_tokens=999, skip_tokens=1, temperature=1.3, balance=False)
    units = [unit for unit in units_of(taught_job(model, tmp_path), model, replace(loss, skip_tokens=0))[0] if not unit.seed]
    ours_units = [unit for unit in units_of(taught_job(model, tmp_path), model, loss)[0] if not unit.seed]
    places = {unit.rows[0].place for unit in ours_units}
    units = [unit for unit in units if unit.rows[0].place in places]  # as tokens, with those to be skipped
    start, net = start_and_changed(model)
    total = taught_by(loss.total, net, start, torch.device("cpu"), None)
    ours = total(net, loss.collate(ours_units, EVEN, 0), net.get_output_embeddings()) / len(ours_units)
    ours.backward()
    slope = gradients(net)

    options = SDFTConfig(
        str(tmp_path),
        distillation_mode="full_logits",
        distillation_alpha=alpha,
        distillation_is_clip=None,
        num_loss_tokens_to_skip=1,
        temperature=1.3,
        num_generations=1,
        per_device_train_batch_size=1,
        **PLAIN,
    )
    texts = Dataset.from_list([{"prompt": "a", "privileged_context": "b"}])
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = SDFTTrainer(net, args=options, train_dataset=texts, processing_class=tokenizer)
    bare, taught = ([split(row) for row in rows] for rows in zip(*((u.rows[0], u.rows[0].taught) for u in units), strict=True))
    assert [answer for _, answer in bare] == [answer for _, answer in taught]
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    prompts, answers = padded([prompt for prompt, _ in bare], left=True), padded([answer for _, answer in bare], left=False)
    before = padded([prompt for prompt, _ in taught], left=True)
    teacher = {
        f"teacher_{name}": torch.cat([a, b], 1)
        for name, a, b in zip(("input_ids", "attention_mask"), before, answers, strict=True)
    }
    theirs = trainer.compute_loss(trainer.model.eval(), {**dict(zip(names, (*prompts, *answers), strict=True)), **teacher})
    theirs.backward()
    assert len(units) > 4 and float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert torch.allclose(slope, gradients(net), rtol=0, atol=1e-5)

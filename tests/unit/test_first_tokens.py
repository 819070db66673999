"""Cross-entropy with first tokens balanced over the categories, against its formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfalign.errors import UserError
from selfalign.models.rendering import make_renderer
from selfalign.protocols import TrainJob
from selfalign.recipes import isara
from selfalign.trainers import SFT, CrossEntropy
from selfalign.trainers._batches import Row, plan, tokenise, weigh
from selfalign.trainers._weighted import Steps
from selfalign.types import Example
from tests.unit.test_sft import gradients, job

LOSS = CrossEntropy(first_tokens=3, first_weight=2.5)
SMALL = SFT(learning_rate=1e-3, epochs=1, batch_size=3, micro_batch=2, save_every=1, precision="fp32", loss=LOSS)
KINDS = {"seed": ("no", "no", "no", "yes"), "made": ("yes", "yes", "yes", "yes", "no", "")}


def uneven(model: Path, folder: Path, **changes: Any) -> TrainJob:
    """Three refusals to one answer among the seeds, one to four among what was generated; the shortest text has two tokens."""
    made = {
        side: tuple(Example(f"{side}{i}", f"{side} asks {i}", "!" * (1 + 2 * i), category=kind) for i, kind in enumerate(kinds))
        for side, kinds in KINDS.items()
    }
    return replace(job(model, folder), seeds=made["seed"], generated=made["made"], **changes)


def tokens_of(model: Path, work: TrainJob) -> list[Row]:
    encode = make_renderer(AutoTokenizer.from_pretrained(model)).training_ids
    return tokenise(SMALL.spec(work)["rows"], encode, 256)[0]


def by_the_formula(net: Any, rows: list[Row]) -> torch.Tensor:
    """The mean over all tokens of a side, with every token's weight written out."""
    total, k, w = torch.zeros((), dtype=torch.float64), LOSS.first_tokens, LOSS.first_weight
    tokens = sum(row.learned for row in rows)
    of = {kind: sum(min(k, row.learned) for row in rows if row.kind == kind) for kind in {row.kind for row in rows}}
    every = sum(of.values())
    u = tokens / (w * every + tokens - every)
    for row in rows:
        logits = net(input_ids=torch.tensor([row.ids])).logits[0, :-1].double()
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=-100, reduction="none")
        for number, loss in enumerate(each[-row.learned :]):
            total = total + loss * (u * w * every / (len(of) * of[row.kind]) if number < k else u)
    return total / tokens


@pytest.mark.parametrize(("gamma", "micro", "devices"), [(0.3, 99, 1), (None, 2, 3)])
def test_the_gradient_is_that_of_the_formula(model: Path, tmp_path: Path, gamma: float | None, micro: int, devices: int) -> None:
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows = tokens_of(model, uneven(model, tmp_path))
    units, lost = LOSS.units(rows, ())
    given = weigh(units, gamma)
    plans = plan(units, seed=0, epochs=1, max_steps=0, batch=99, micro=micro, devices=devices)
    steps = Steps(units, plans, given, pad=0, devices=devices, make=LOSS.collate)
    for device in range(devices):
        for batch in steps[device]["batches"]:
            (LOSS.total(net, batch, net.get_output_embeddings()) * steps[device]["scale"] / devices).backward()
    found = gradients(net)
    seeds, made = ([row for row in rows if row.seed is side] for side in (True, False))
    (given.share * by_the_formula(net, seeds) + (1 - given.share) * by_the_formula(net, made)).backward()
    assert torch.allclose(found, gradients(net), rtol=0, atol=1e-6) and not lost
    firsts = [sum(sum(one.rows[0].shares[:3]) for one in units if one.seed and one.kind == kind) for kind in ("no", "yes")]
    assert firsts[0] == pytest.approx(firsts[1]) and [len(one.rows[0].shares) for one in units] == [one.learned for one in rows]


def test_unset_it_is_the_training_and_the_run_that_it_was_before(model: Path, tmp_path: Path) -> None:
    spec = replace(SMALL, loss=CrossEntropy()).spec(uneven(model, tmp_path))
    assert spec["options"]["loss"] == {"name": "CrossEntropy"} and "category" not in spec["rows"][0]
    plain, other = (replace(isara(), trainer=replace(SMALL, loss=loss)).identity() for loss in (CrossEntropy(), LOSS))
    assert plain["trainer"]["loss"] == {"part": "selfalign.trainers._cross_entropy.CrossEntropy"}
    assert other["trainer"]["loss"]["first_weight"] == 2.5 and "decision" not in json.dumps(plain)
    for wrong in ({"first_tokens": -1}, {"first_tokens": 2, "first_weight": 0.0}, {"first_weight": 2.0}):
        with pytest.raises(UserError, match="loss CrossEntropy: "):
            CrossEntropy(**wrong)  # type: ignore[arg-type]

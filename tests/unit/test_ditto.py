"""The loss of DITTO: which answers it compares, its first round, its reference, and trainings that go on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfalign.errors import RunFailed, UserError
from selfalign.models.rendering import make_renderer
from selfalign.protocols import TrainJob
from selfalign.trainers import DPO, SFT, Ditto
from selfalign.trainers._batches import plan, tokenise, weigh
from selfalign.trainers._reference import NAME
from selfalign.types import Example, ModelRef
from tests.tiny import train_job
from tests.unit.test_dpo import log_probability
from tests.unit.test_sft import Quiet, weights
from tests.unit.test_sft_processes import result, two_processes

SMALL = SFT(
    learning_rate=1e-3,
    batch_size=5,
    max_steps=4,
    micro_batch=2,
    save_every=1,
    precision="fp32",
    schedule="constant",
    warmup=0.0,
    loss=Ditto(older_share=0.2, between_share=0.2, start_rate=5.0, start_steps=9),
)
SEEDS = tuple(Example(f"s{i}", f"Question {i}?", f"Answer {i}.", slot=i) for i in range(3))


def samples(round: int, count: int, texts: str = "It is {n}!") -> tuple[Example, ...]:
    return tuple(
        Example(
            f"r{round:02d}-{n:05d}",
            f"Question {n % 3}?",
            texts.format(n=n * round),
            round=round,
            slot=n,
            response_finish="length" if n == 1 else "stop",
            metadata={"preferred": f"s{n % 3}"},
        )
        for n in range(count)
    )


def job(start: ModelRef, folder: Path, **changes: object) -> TrainJob:
    return train_job(start, folder, **{"seeds": SEEDS, **changes})


# ---- the pairs


def test_pairs_are_drawn_in_the_papers_shares() -> None:
    rows = (*SEEDS, *samples(2, 168), *samples(3, 168), *samples(4, 168))
    pairs = Ditto().compared(rows, seed=3)
    kinds = Counter((pair.chosen.round, pair.rejected.round) for pair in pairs)
    current = kinds[0, 4]
    replayed = kinds[0, 2] + kinds[0, 3]
    between = kinds[3, 2] + kinds[4, 2] + kinds[4, 3]
    assert (current, replayed, between) == (168, 48, 24) and min(kinds.values()) > 0 and sum(kinds.values()) == 240
    assert all(pair.chosen.prompt == pair.rejected.prompt for pair in pairs)
    many = Ditto(between_share=0.3).compared((*SEEDS, *samples(2, 30), *samples(3, 30)), seed=3)
    for drawn in ([pair for pair in many if pair.chosen.round], [pair for pair in many if not pair.chosen.round]):
        assert len(drawn) in (18, 42) and max(Counter(pair.rejected.id for pair in drawn).values()) == 1, "without repetition"
    assert Ditto().compared(rows, seed=3) == pairs != Ditto().compared(rows, seed=4)
    same = (*SEEDS, *samples(2, 168, "Same"), *samples(3, 168, "Same"))
    assert not [pair for pair in Ditto().compared(same, seed=3) if pair.chosen.round], "equal answers have no preference"
    assert len(Ditto().compared((*SEEDS, *samples(2, 6)), seed=3)) == 6, "the first refresh has nothing older"
    assert len(Ditto(older_share=0, between_share=0).compared(rows, seed=3)) == 168


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"between_share": 0.8}, {"start_steps": 0}, {"start_below": -1.0}])
def test_options_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"loss Ditto: {next(iter(wrong))}"):
        Ditto(**wrong)  # type: ignore[arg-type]


def test_every_step_has_pairs_of_all_ages_and_seeds_alone_are_imitated(model: Path, tmp_path: Path) -> None:
    start = ModelRef(str(model), hash="start")
    work = job(start, tmp_path, round=3, generated=(*samples(2, 30), *samples(3, 30)))
    loss = Ditto(older_share=0.2, between_share=0.2)
    spec = replace(SMALL, loss=loss).spec(work)
    rows, _ = tokenise(spec["rows"], make_renderer(AutoTokenizer.from_pretrained(model)).training_ids, 256, ending=1)
    units, lost = loss.units(rows, spec["pairs"])
    assert Counter(unit.kind for unit in units) == {"0/3/": 30, "0/2/": 10, "3/2/": 10}
    assert {one.rule for one in lost} == {"not_drawn"} and len({r.place for u in units for r in u.rows}) + len(lost) == 63
    for step in plan(units, seed=0, epochs=1, max_steps=0, batch=10, micro=10):
        assert Counter(units[place].kind for part in step for place in part) == {"0/3/": 6, "0/2/": 2, "3/2/": 2}
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    some = [replace(unit, reference=(-20.0, -30.0)) for unit in units[-12:]]
    batch = loss.collate(some, weigh(some, None), 0)
    with torch.no_grad():
        found = float(loss.total(net, batch, net.get_output_embeddings()))
        alone = float(DPO(beta=0.05, sft_weight=0.0).total(net, batch, net.get_output_embeddings()))
        seeds = [unit.rows[0] for unit in some if unit.seed]
        imitated = sum(-float(log_probability(net, row)) / row.learned for row in seeds)
    assert len(seeds) == 2 and found == pytest.approx(alone + imitated, abs=1e-4)


# ---- whole trainings


def test_round_one_imitates_the_seeds_at_its_own_rate_until_its_loss_is_low_killed_or_not(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(SMALL, batch_size=1, loss=Ditto(start_below=4.5, start_rate=5.0, start_steps=9))
    whole, again = (job(ModelRef(str(model), hash="start"), tmp_path / name) for name in ("whole", "again"))
    options = training.spec(whole)["options"]
    assert (options["loss"], options["learning_rate"], options["max_steps"]) == ({"name": "CrossEntropy"}, 5e-3, 9)
    done = training.train(whole, Quiet())
    assert 1 < done.steps == len(done.losses) < 9 and done.losses[-1] < 4.5 <= min(done.losses[:-1])
    rules = {drop.example.id: drop.rule for drop in done.dropped}
    assert {*done.trained, *rules} == {seed.id for seed in SEEDS} and set(rules.values()) <= {"max_steps"}
    monkeypatch.setenv("SELFALIGN_FAULT_AT", "train.model.before-rename")  # behind the last step
    with pytest.raises(RunFailed, match="killed"):
        training.train(again, Quiet())
    monkeypatch.delenv("SELFALIGN_FAULT_AT")
    progress = Quiet()
    resumed = training.train(again, progress)
    assert progress.seen[0] == ("start", 9, done.steps - 1), "of the last step no checkpoint was made"
    assert weights(again.out) == weights(whole.out) and (resumed.losses, resumed.steps) == (done.losses, done.steps)


def test_later_rounds_have_the_first_ones_model_as_reference_and_lose_no_row(model: Path, tmp_path: Path) -> None:
    """With an adapter: the start is one model, the reference another, both on the same base."""
    training = replace(SMALL, lora_rank=4, learning_rate=1e-2)
    one = training.train(job(ModelRef(str(model), hash="start"), tmp_path / "1"), Quiet()).model
    two = training.train(job(one, tmp_path / "2", round=2, first=one, generated=samples(2, 6)), Quiet()).model
    work = job(two, tmp_path / "3", round=3, first=one, generated=(*samples(2, 6), *samples(3, 6)))
    done = training.train(work, Quiet())
    spec = training.spec(work)
    rows, _ = tokenise(spec["rows"], make_renderer(AutoTokenizer.from_pretrained(model)).training_ids, 256, ending=1)
    units, lost = Ditto().units(rows, spec["pairs"])
    assert one.adapter and two.adapter != one.adapter
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    net = PeftModel.from_pretrained(net, one.adapter).eval()
    with torch.no_grad():
        expected = [float(log_probability(net, row)) for unit in units for row in unit.rows]
    kept = json.loads((work.work / NAME).read_text())["log_probabilities"]
    assert [value for pair in kept for value in pair] == pytest.approx(expected, abs=1e-3)
    assert done.steps == 4 and {drop.rule for drop in done.dropped} == {"not_drawn"} and len(lost) == len(done.dropped)
    assert {*done.trained, *(drop.example.id for drop in done.dropped)} == {row.id for row in (*SEEDS, *work.generated)}


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_two_processes_with_a_part_each_compare_with_the_same_reference(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    training = replace(SMALL, lora_rank=rank, learning_rate=1e-2 if rank else 1e-3)
    one = training.train(job(ModelRef(str(model), hash="start"), tmp_path / "1"), Quiet()).model
    two = training.train(job(one, tmp_path / "2", round=2, first=one, generated=samples(2, 6)), Quiet()).model

    def third(_: Path, folder: Path) -> TrainJob:
        return job(two, folder, round=3, first=one, generated=(*samples(2, 6), *samples(3, 6)))

    alone = training.train(third(model, tmp_path / "alone"), Quiet())
    monkeypatch.setattr("tests.unit.test_sft_processes.job", third)
    done = two_processes(tmp_path / "both", replace(training, strategy="fsdp"), model)
    assert done.returncode == 0, done.stderr[-2000:]
    assert result(tmp_path / "both")["losses"] == pytest.approx(list(alone.losses), rel=1e-3)
    kept = [json.loads((tmp_path / name / "training" / NAME).read_text())["log_probabilities"] for name in ("alone", "both")]
    for ours, theirs in zip(*kept, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    name = "adapter_model.safetensors" if rank else "model.safetensors"
    expected, found = (load_file(tmp_path / each / "model" / name) for each in ("alone", "both"))
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-2, atol=2e-4)

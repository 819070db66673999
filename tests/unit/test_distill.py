"""The loss of self-distillation against its formula, and trainings: accounts, kills, adapters, teachers, several devices."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from selfalign.errors import RunFailed, UserError
from selfalign.models.rendering import Renderer, make_renderer
from selfalign.protocols import TrainJob, TrainResult
from selfalign.record.checkpoints import AVERAGE
from selfalign.trainers import SFT, Distill
from selfalign.trainers._batches import Unit, plan, tokenise, weigh
from selfalign.trainers._model import load_model
from selfalign.trainers._teacher import taught_by, with_taught
from selfalign.trainers._weighted import Steps
from selfalign.types import Demonstration, Example, ModelRef
from tests.tiny import train_job
from tests.unit.test_sft import Quiet, gradients
from tests.unit.test_sft_processes import result, two_processes

LOSS = Distill(first_tokens=3, later_weight=0.25)
SMALL = SFT(learning_rate=1e-3, epochs=1, batch_size=3, micro_batch=2, save_every=1, precision="fp32", loss=LOSS)
WHOLE = replace(SMALL, batch_size=99)
"""One step of all rows: its loss is that of the model it starts from."""
GAMMA = 0.3
ANSWERS = {"a0": "No.", "a1": "I will not say it", "a2": "", "a3": "Maybe so", "b0": "Sure: do this", "b1": "Yes", "b2": "x"}


def job(model: Path, folder: Path, **changes: object) -> TrainJob:
    """Seven rollouts of two categories, a1 cut off, a2 empty, and three that cannot be taught."""
    seeds = tuple(
        Example(f"{kind}{i}", f"{kind} asks {i}", f"{kind} says {i}.", category=kind) for kind in "ab" for i in range(2)
    )
    shown = {kind: (seeds[at], seeds[at + 1]) for kind, at in (("a", 0), ("b", 2))}
    rollouts = [
        Example(
            f"r-{name}",
            f"{name} asks",
            answer,
            round=1,
            category=name[0],
            response_finish="length" if name == "a1" else "stop",
            response_demonstrations=tuple(Demonstration(seed.id) for seed in shown[name[0]][: 1 if name == "b1" else 2]),
        )
        for name, answer in ANSWERS.items()
    ]
    last = rollouts[-1]
    alone = replace(last, id="r-alone", response_demonstrations=())
    long = replace(last, id="r-long", prompt="why " * 50)
    made = (*rollouts, alone, long, replace(long, id="r-longer", prompt="why " * 99))
    given = {"seeds": seeds, "generated": made, "seed_weight": GAMMA, "shown": seeds, **changes}
    return train_job(ModelRef(str(model), hash="start"), folder, **given)


# ---- the loss, written out


def answer_logits(net: Any, before: list[int], answer: list[int]) -> torch.Tensor:
    """What each token of an answer is predicted by, with all logits, in float64."""
    return net(input_ids=torch.tensor([before + answer])).logits[0, len(before) - 1 : -1].double()


def divergence(teacher: torch.Tensor, student: torch.Tensor, loss: Distill) -> list[torch.Tensor]:
    found = []
    for theirs, ours in zip(teacher, student, strict=True):
        p, q = torch.softmax(theirs / loss.temperature, 0), torch.softmax(ours / loss.temperature, 0)
        forward, reverse = (p * (p / q).log()).sum(), (q * (q / p).log()).sum()
        kl = {"forward": forward, "reverse": reverse, "symmetric": loss.alpha * forward + (1 - loss.alpha) * reverse}[loss.kl]
        found.append(kl if not loss.clip or kl <= loss.clip else loss.clip * kl / float(kl))
    return found


def by_the_formula(net: Any, teacher: Any, work: TrainJob, renderer: Renderer, loss: Distill) -> torch.Tensor:
    """γ·mean over the seeds of -log p per token + (1-γ)·mean over the categories, replay one of them, of their answers' mean."""
    shown = {example.id: example for example in work.shown}
    own, taught = [], dict[str, list[torch.Tensor]]()
    for seed in work.seeds:
        answer = renderer.response_ids(seed.response)
        logs = answer_logits(net, renderer.prompt_ids((), seed.prompt), answer).log_softmax(-1)
        own.append(-sum(logs[at, token] for at, token in enumerate(answer)) / len(answer))
    for row in (row for row in work.generated if row.id[2:] in ANSWERS or row.round == 0):
        answer = renderer.response_ids(row.response)
        answer = answer[:-1] if row.response_finish == "length" else answer
        context = renderer.prompt_ids([shown[d.id] for d in row.response_demonstrations], row.prompt)
        with torch.no_grad():
            theirs = answer_logits(teacher, context, answer)
        each = divergence(theirs, answer_logits(net, renderer.prompt_ids((), row.prompt), answer), loss)[loss.skip_tokens :]
        share = [1.0 if at < loss.first_tokens else loss.later_weight for at in range(len(each))]
        if each:
            mean = sum(kl * weight for kl, weight in zip(each, share, strict=True)) / sum(share)
            taught.setdefault(row.category if loss.balance else "", []).append(mean)
    kinds = [torch.stack(found).mean() for found in taught.values()]
    return GAMMA * torch.stack(own).mean() + (1 - GAMMA) * torch.stack(kinds).mean()


def units_of(work: TrainJob, model: Path, loss: Distill) -> tuple[list[Unit], list[str]]:
    renderer, spec = make_renderer(AutoTokenizer.from_pretrained(model)), replace(SMALL, loss=loss).spec(work)
    rows, lost = tokenise(spec["rows"], renderer.training_ids, 256, ending=1)
    rows, untaught = with_taught(rows, spec["rows"], renderer, 256, ending=1)
    units, skipped = loss.units(rows, ())
    return units, [each.rule for each in (*lost, *untaught, *skipped)]


@pytest.mark.parametrize(
    ("loss", "micro", "devices"),
    [
        (LOSS, 99, 1),
        (Distill(kl="reverse", first_tokens=0, temperature=2.0, balance=False), 2, 1),
        (Distill(kl="symmetric", alpha=0.3, skip_tokens=2, later_weight=0.0, clip=0.01), 2, 3),
    ],
    ids=["forward", "reverse", "symmetric"],
)
def test_loss_and_gradient_are_those_of_the_formula(model: Path, tmp_path: Path, loss: Distill, micro: int, devices: int) -> None:
    work = job(model, tmp_path)
    replayed = Example("replay-00000", "Count to three.", "One two three", response_finish="stop")
    work = replace(work, generated=(*work.generated, replayed))
    units, _ = units_of(work, model, loss)
    teacher, net = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    steps = plan(units, seed=0, epochs=1, max_steps=0, batch=len(units), micro=micro, devices=devices)
    shares = Steps(units, steps, weigh(units, GAMMA), 0, devices, loss.collate)
    total, found = taught_by(loss.total, net, teacher, torch.device("cpu"), None), 0.0
    for device in range(devices):
        for batch in shares[device]["batches"]:
            each = total(net, batch, net.get_output_embeddings()) * shares[device]["scale"] / devices
            each.backward()
            found += float(each.detach())
    ours = gradients(net)
    expected = by_the_formula(net, teacher, work, make_renderer(AutoTokenizer.from_pretrained(model)), loss)
    expected.backward()
    assert found == pytest.approx(float(expected), abs=1e-5)
    assert torch.allclose(ours, gradients(net), rtol=0, atol=1e-5)
    assert all(weight.grad is None for weight in teacher.parameters())


def test_a_step_has_as_much_of_each_category(model: Path, tmp_path: Path) -> None:
    work = job(model, tmp_path)
    twice = [replace(row, id=f"{row.id}-{copy}") for copy in range(4) for row in work.generated[:7]]
    units, _ = units_of(replace(work, generated=tuple(twice)), model, LOSS)
    for step in plan(units, seed=3, epochs=1, max_steps=0, batch=8, micro=8):
        kinds = [units[place].kind for part in step for place in part if not units[place].seed]
        assert abs(kinds.count("a") - kinds.count("b") * 4 / 3) < 2
    weight = {kind: sum(unit.weight for unit in units if unit.kind == kind and not unit.seed) for kind in "ab"}
    assert weight["a"] == pytest.approx(weight["b"]) and sum(weight.values()) == pytest.approx(28)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kl": "both"},
        {"alpha": 1.5},
        {"alpha": 0.3},
        {"first_tokens": -1},
        {"later_weight": 0.0, "first_tokens": 0},
        {"skip_tokens": -1},
        {"clip": math.nan},
        {"temperature": 0.0},
        {"teacher": "me"},
        {"ema_rate": 0.0, "teacher": "ema"},
        {"ema_rate": 0.1},
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"loss Distill: {next(iter(wrong))}"):
        Distill(**wrong)


# ---- whole trainings


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, SMALL.train(job(model, folder), Quiet())


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("adapter")
    return folder, replace(SMALL, lora_rank=4, learning_rate=3e-2).train(job(model, folder), Quiet())


@pytest.fixture(scope="module")
def moved(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """All weights, and soon far from the teacher's."""
    folder = tmp_path_factory.mktemp("moved")
    return folder, replace(SMALL, learning_rate=1e-2).train(job(model, folder), Quiet())


ROUND: dict[str, Any] = {"lora_rank": 4, "learning_rate": 3e-2, "loss": replace(LOSS, teacher="round")}


@pytest.fixture(scope="module")
def later(model: Path, adapter: tuple[Path, TrainResult], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """An adapter that is trained further, taught by a copy of what it starts from."""
    folder = tmp_path_factory.mktemp("later")
    return folder, replace(SMALL, **ROUND).train(job(model, folder, start=adapter[1].model), Quiet())


def test_every_row_is_trained_on_or_dropped_by_rule(model: Path, unbroken: tuple[Path, TrainResult], tmp_path: Path) -> None:
    done = unbroken[1]
    assert done.trained == ("a0", "a1", "b0", "b1", *(f"r-{name}" for name in ANSWERS))
    rules = {drop.example.id: drop.rule for drop in done.dropped}
    assert rules == {"r-alone": "no_demonstrations", "r-long": "too_long", "r-longer": "too_long"}
    assert "with its demonstrations" in next(drop.evidence for drop in done.dropped if drop.example.id == "r-long")
    assert done.steps == 4 == len(done.losses) and done.seed_weight == GAMMA
    skipping = replace(LOSS, skip_tokens=4)
    units, rules_now = units_of(job(model, tmp_path), model, skipping)
    assert rules_now.count("all_skipped") == 4, "No. and Yes with their ends, x, and the empty one"
    assert sorted(unit.rows[0].learned for unit in units if not unit.seed) == [5, 10, 13]


def test_where_an_answer_was_cut_off_no_end_is_taught(model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    units, _ = units_of(job(model, tmp_path), model, LOSS)
    ends = [[tokenizer.decode(row.ids[-1:]) for row in (one, one.taught or one)] for one in (unit.rows[0] for unit in units)]
    assert ends == [["<|im_end|>"] * 2] * 5 + [["t"] * 2] + [["<|im_end|>"] * 2] * 5, "a1 alone has none"


def test_an_answer_with_other_tokens_behind_the_demonstrations_is_dropped(model: Path, tmp_path: Path) -> None:
    renderer, spec = make_renderer(AutoTokenizer.from_pretrained(model)), SMALL.spec(job(model, tmp_path))
    rows, _ = tokenise(spec["rows"], renderer.training_ids, 256, ending=1)

    class Other(Renderer):
        def pair_ids(self, *given: Any) -> tuple[list[int], list[int]]:
            ids, labels = super().pair_ids(*given)
            return [*ids, 7], [*labels, 7]

    other = Other(renderer.tokenizer, renderer.format, renderer.special, renderer.style)
    kept, lost = with_taught(rows, spec["rows"], other, 256, ending=1)
    assert [row.seed for row in kept] == [True] * 4 and {each.rule for each in lost} == {"other_tokens", "no_demonstrations"}


def test_the_teacher_is_the_model_that_the_run_or_the_round_starts_from(
    model: Path, unbroken: tuple[Path, TrainResult], adapter: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    """With all weights and with an adapter, which goes on from an earlier round's: by the loss of the first step."""

    def load(folder: Path | None, base: Path = model) -> Any:
        net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(net, folder / "model").eval() if folder else net

    renderer = make_renderer(AutoTokenizer.from_pretrained(model))
    base = ModelRef(str(model), hash="start")
    full: Callable[[], Any] = lambda: load(None, unbroken[0] / "model")  # noqa: E731
    adapted: Callable[[], Any] = lambda: load(adapter[0])  # noqa: E731
    cases = [
        ("start", 0, unbroken[1].model, full, lambda: load(None)),
        ("start", 4, adapter[1].model, adapted, lambda: load(None)),
        ("round", 4, adapter[1].model, adapted, adapted),
    ]
    found = []
    for number, (teacher, rank, start, student, taught) in enumerate(cases):
        loss = replace(LOSS, teacher=teacher)
        work = job(model, tmp_path / str(number), start=start, base=base)
        done = replace(WHOLE, lora_rank=rank, loss=loss).train(work, Quiet())
        with torch.no_grad():
            expected = float(by_the_formula(student(), taught(), work, renderer, loss))
        assert done.losses == (pytest.approx(expected, abs=1e-3),), cases[number][:2]
        found.append(done.losses[0])
    assert found[1] != pytest.approx(found[2], abs=0.05), "the two teachers differ"


EMA = Distill(first_tokens=3, later_weight=0.25, teacher="ema", ema_rate=0.3)
AVERAGED = replace(SMALL, batch_size=99, epochs=3, loss=EMA, schedule="constant", warmup=0.0, max_grad_norm=0.0)
"""Three steps of all rows."""
Weights = dict[str, torch.Tensor]


def by_hand(net: Any, average: Weights, work: TrainJob, rate: float) -> tuple[list[float], Weights]:
    """Three steps of AdamW with a teacher that is copied anew from the average: losses, and the average in the end."""
    renderer = make_renderer(AutoTokenizer.from_pretrained(work.start.base))
    learned = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    optimiser, losses = torch.optim.AdamW(learned.values(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0), []
    for _ in range(3):
        teacher = copy.deepcopy(net)
        teacher.load_state_dict(average, strict=False)
        loss = by_the_formula(net, teacher, work, renderer, EMA)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        average = {name: 0.7 * old + 0.3 * learned[name].detach() for name, old in average.items()}
    return losses, average


def own(net: Any) -> Weights:
    return {name: weight.detach().clone() for name, weight in net.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_an_average_of_the_student_teaches_and_goes_on_in_the_next_round(model: Path, tmp_path: Path, rank: int) -> None:
    """Against AdamW and a copied teacher, by the losses of two rounds of three steps, each seeing the one before's average."""
    training = replace(AVERAGED, lora_rank=rank, learning_rate=3e-2 if rank else 3e-3)
    base = ModelRef(str(model), hash="start")
    first, second = job(model, tmp_path / "1", base=base), job(model, tmp_path / "2", base=base)
    spec = training.spec(first)
    set_seed(spec["seed"])
    net = load_model(spec)[0].eval()
    done = training.train(first, Quiet())
    losses, average = by_hand(net, own(net), first, training.learning_rate)
    assert done.losses == pytest.approx(losses, rel=1e-3)
    ours = load_file(tmp_path / "1/model" / AVERAGE / "average.safetensors")
    assert set(ours) == set(average) and len(ours) == (28 if rank else 20), "of an adapter its own weights alone"
    for name, weight in average.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4)

    second = replace(second, start=done.model)
    net = load_model({**training.spec(second), "work": ""})[0].eval()
    again = training.train(second, Quiet())
    losses, _ = by_hand(net, ours, replace(second, start=base), training.learning_rate)
    assert again.losses == pytest.approx(losses, rel=1e-3)
    anew = by_hand(net, own(net), replace(second, start=base), training.learning_rate)[0]
    assert abs(losses[0] - anew[0]) > 0.01, "it would be another teacher that began anew"


@pytest.fixture(scope="module")
def averaged(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("averaged")
    return folder, replace(SMALL, lora_rank=4, learning_rate=3e-2, loss=EMA).train(job(model, folder), Quiet())


def test_killed_with_an_average_it_ends_with_the_same_bits(
    model: Path, averaged: tuple[Path, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a checkpoint whose average was damaged is not gone on from."""
    training, (unbroken, whole) = replace(SMALL, lora_rank=4, learning_rate=3e-2, loss=EMA), averaged
    monkeypatch.setenv("SELFALIGN_FAULT_AT", "train.checkpoint.after-manifest:2")
    work = job(model, tmp_path / "killed")
    with pytest.raises(RunFailed, match="killed"):
        training.train(work, Quiet())
    monkeypatch.delenv("SELFALIGN_FAULT_AT")
    file = work.work / "checkpoint-2/average.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    progress = Quiet()
    assert training.train(work, progress).losses == whole.losses
    assert progress.seen[0] == ("start", 4, 1)
    names = ("adapter_model.safetensors", f"{AVERAGE}/average.safetensors")
    assert all((unbroken / "model" / name).read_bytes() == (work.out / name).read_bytes() for name in names)


ADAPTED: dict[str, Any] = {"lora_rank": 4, "learning_rate": 3e-2}


@pytest.mark.parametrize(
    ("alone", "given"),
    [
        ("adapter", ADAPTED),
        ("averaged", {**ADAPTED, "loss": EMA}),
        ("adapter", {**ADAPTED, "strategy": "fsdp"}),
        ("adapter", {**ADAPTED, "offload": True}),
        ("moved", {"learning_rate": 1e-2, "strategy": "fsdp"}),
        ("later", {**ROUND, "strategy": "fsdp"}),
    ],
    ids=["start", "ema", "start, cut", "start, offload", "copy, cut", "adapter and copy, cut"],
)
def test_two_processes_teach_what_one_does(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    alone: str,
    given: dict[str, Any],
) -> None:
    """With an adapter, which the teacher takes off, or has averaged, in the middle of a step; or with one that is cut too."""
    folder, one = request.getfixturevalue(alone)
    start = {"start": request.getfixturevalue("adapter")[1].model} if alone == "later" else {}
    monkeypatch.setattr("tests.unit.test_sft_processes.job", partial(job, **start))
    done = two_processes(tmp_path, replace(SMALL, **given), model)
    assert done.returncode == 0, done.stderr[-2000:]
    assert result(tmp_path)["losses"] == pytest.approx(list(one.losses), rel=1e-3)
    name = "adapter_model.safetensors" if "lora_rank" in given else "model.safetensors"
    expected, found = (load_file(each / "model" / name) for each in (folder, tmp_path))
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-2, atol=1e-3)

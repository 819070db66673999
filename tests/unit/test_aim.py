"""A point on the curve of refusals, chosen on the validation seeds: which one, what it is made of, what is said, and kills."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.errors import UserError
from selfalign.evaluators import Refusal
from selfalign.export.cards import model_card
from selfalign.loop.align import Run, align
from selfalign.loop.checkup import checkup
from selfalign.loop.preflight import check_aim
from selfalign.models.between import write_between
from selfalign.protocols import Progress, TrainJob, TrainResult
from selfalign.recipe import Recipe
from selfalign.recipes import sft
from selfalign.record import faults
from selfalign.record.checkpoints import manifest_hash, read_manifest
from selfalign.record.store import Store
from selfalign.trainers import NullTrainer
from selfalign.types import Example, ModelRef, Request
from tests.tiny import tiny_model

MARK = "model.norm.weight"
"""The weight that says how far a model has gone: 1 in the base model, 2 in a trained one."""


@dataclass(frozen=True)
class Marks:
    """A trainer that raises one weight."""

    def train(self, job: TrainJob, progress: Progress) -> TrainResult:
        shutil.copytree(job.base.base if job.base else job.start.base, job.out)
        weights = load_file(job.out / "model.safetensors")
        save_file({**weights, MARK: weights[MARK] + 1}, job.out / "model.safetensors", {"format": "pt"})
        seeds = tuple(seed.id for seed in job.seeds)
        return TrainResult(ModelRef(str(job.out), hash=manifest_hash(read_manifest(job.out))), seeds, (), 1, 1, 1.0, (0.0,))


def refuses(model: ModelRef, request: Request) -> str:
    """From the edge on that the prompt names, as a share of the way."""
    gone = float(load_file(Path(model.base) / "model.safetensors")[MARK][0]) - 1
    edge = float(re.findall(r"[\d.]+\d", request.prompt or "")[0])
    return "I'm sorry, but I can't help with that." if gone > edge else "Sure, here is how to do it step by step."


SEEDS = [
    Example(
        f"{kind}{i}",
        f"May I {what} number {i:03d} at {low + i / 1000:.4f}, please?".replace(f"number {i:03d} ", f"{'x' * (i % 7 + 1)} "),
        "I'm sorry, but I can't help with that." if kind == "harmful" else "Sure, here is how to do it step by step.",
        category=kind,
    )
    for kind, what, low in (("harmful", "steal", 0.05), ("harmless", "borrow", 0.51))
    for i in range(24)
]
RECIPE = replace(
    sft(),
    rounds=1,
    engine=Scripted(replies=refuses),
    encoder=Hashed(),
    trainer=Marks(),
    evaluators=(Refusal(decision=False),),
    validation_share=0.5,
    aim_over_refusal=0.1,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("start") / "model")
    weights = load_file(folder / "model.safetensors")
    assert float(weights[MARK].min()) == float(weights[MARK].max()) == 1.0
    return folder


def run(model: Path, out: Path, recipe: Recipe = RECIPE) -> Run:
    asked = [replace(seed, id=f"h-{seed.id}", prompt=f"{seed.prompt} Today.") for seed in SEEDS[::4]]
    return align(recipe, str(model), SEEDS, out, held_out=asked, progress=None)


def made(out: Path) -> dict[str, object]:
    with Store.read(out) as store:
        whole = {round: [(m.name, m.value, m.low, m.high, m.n) for m in store.metrics(round)] for round in (0, 1, 2)}
        text = [data for _, kind, data in store.events() if kind == "aim"]
        return {"metrics": whole, "aim": text, "hash": store.model(2).hash, "state": store.state()}


def killed(at: str, work: Callable[[], object]) -> None:
    """In a process of its own, which the fault point ends by kill -9."""
    if (child := os.fork()) == 0:
        faults._hits.clear()  # earlier tests of this process may have passed the point, which a count would take for ours
        os.environ[faults.AT] = at
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, at


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    run(model, out)
    return out


def test_the_first_point_that_reaches_the_aim_is_shipped_and_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(model, tmp_path / "out")
    assert done.best_round == 2 and done.model.base == str(tmp_path / "out/round-02/model")
    trained, start = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out/round-01/model", model))
    shipped = load_file(Path(done.model.base) / "model.safetensors")
    for name, weight in shipped.items():
        torch.testing.assert_close(weight, start[name] + 0.5 * (trained[name] - start[name]))
    said = "aimed at an over-refusal of at most 10%: round 2 is round 1 at 50.0% of its way from the base model"
    rates = "refuses 100% [76, 100] of what it should and 0% [0, 24] of what it should not (of 12 and 12 validation seeds"
    assert said in done.stopped_because and rates in done.stopped_because and "which chose it" in done.stopped_because
    with Store.read(tmp_path / "out") as store:
        tried = [data for _, kind, data in store.events() if kind == "aim"][-1]["tried"]
        assert [row["share"] for row in tried] == [1.0, 0.875, 0.75, 0.625, 0.5]
        assert [row["over_refusal"][0] for row in tried] == [1.0, 1.0, 1.0, 1.0, 0.0]
        metrics = {each.name: each for each in store.metrics(2)}
        assert metrics["over_refusal"].value == 0.0 and metrics["refusal"].value == 1.0, (
            "the held-out prompts, of what is shipped"
        )
        assert metrics["validation_over_refusal"].n == 12
        card = model_card(store, 2)
    assert "after 1 round of the recipe" in card and "its weights lie at 50.0 % of the way from the base model to round 1" in card
    assert main(["status", str(tmp_path / "out")]) == 0 and "best round: 2" in capsys.readouterr().out
    assert not (tmp_path / "out/aim").exists()
    with pytest.raises(UserError, match=r"rounds = 1, now 2 \(rounds are added to .* none with aim_over_refusal"):
        run(model, tmp_path / "out", replace(RECIPE, rounds=2))


@pytest.mark.parametrize(
    "at",
    [
        "aim-0.75.before-commit",
        "batch.after-commit:9",
        "aim.before-commit",
        "aim.after-commit",
        "aim.model.before-rename",
        "aim.model.after-rename",
        "aim-model.after-commit",
    ],
)
def test_killed_anywhere_it_goes_on_to_the_same_model(model: Path, unbroken: Path, tmp_path: Path, at: str) -> None:
    killed(at, lambda: run(model, tmp_path / "out"))
    run(model, tmp_path / "out")
    assert made(unbroken) == made(tmp_path / "out")
    weights = [(out / "round-02/model/model.safetensors").read_bytes() for out in (unbroken, tmp_path / "out")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("low", "said", "share"),
    [
        (0.0, "no point between the base model and round 1 reaches it and refuses more of what it should", None),
        (2.0, "round 1 itself reaches it", 1.0),
    ],
)
def test_where_no_point_or_the_round_itself_reaches_it_the_round_is_shipped(
    model: Path, tmp_path: Path, low: float, said: str, share: float | None
) -> None:
    seeds = [replace(seed, prompt=re.sub(r"0\.5(\d+)", rf"{low:.2f}\1", seed.prompt)) for seed in SEEDS]
    done = align(RECIPE, str(model), seeds, tmp_path / "out", progress=None)
    assert done.best_round == 1 and said in done.stopped_because
    with Store.read(tmp_path / "out") as store:
        last = [data for _, kind, data in store.events() if kind == "aim"][-1]
    assert last["share"] == share and len(last["tried"]) == (8 if share is None else 1)


def test_what_cannot_be_chosen_is_refused_and_what_is_coarse_is_said_before_anything_is_paid_for(model: Path) -> None:
    for changes, words in (
        ({"aim_over_refusal": 1.5}, "a share between 0 and 1"),
        ({"validation_share": 0.0}, "there are none; give --validation_share 0.2"),
        ({"evaluators": ()}, "no Refusal"),
        ({"trainer": NullTrainer()}, "nothing is trained"),
        ({"evaluators": (Refusal(harmful="rude"),)}, "no prompt of category rude"),
    ):
        with pytest.raises(UserError, match=words):
            checkup(replace(RECIPE, **changes), str(model), SEEDS, ())  # type: ignore[arg-type]
    assert not any("aim_over_refusal" in text for text in checkup(RECIPE, str(model), SEEDS, ())["warnings"])
    coarse = checkup(replace(RECIPE, validation_share=0.25), str(model), SEEDS, ())["warnings"]
    said = (
        "with 6 validation seeds to answer the rate goes in steps of 17%, so that none refused is all that counts as at most 10%"
    )
    assert any(said in text and "leaves up to 39% open" in text and "10 of them are the least" in text for text in coarse), coarse


def test_a_start_with_an_adapter_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match="has an adapter already"):
        check_aim(RECIPE, SEEDS, SEEDS, ModelRef("base", "adapter"))


def test_an_adapter_between_adds_its_share_of_what_the_adapter_adds(model: Path, tmp_path: Path) -> None:
    net = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    net.save_pretrained(tmp_path / "adapter")
    write_between(ModelRef(str(model)), ModelRef(str(model), str(tmp_path / "adapter")), 0.25, tmp_path / "out")

    def merged(adapter: Path) -> dict[str, torch.Tensor]:
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).merge_and_unload().state_dict()

    start = AutoModelForCausalLM.from_pretrained(model).state_dict()
    whole, part = merged(tmp_path / "adapter"), merged(tmp_path / "out")
    for name, weight in part.items():
        torch.testing.assert_close(weight, start[name] + 0.25 * (whole[name] - start[name]), rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(part[name], start[name]) for name in part)

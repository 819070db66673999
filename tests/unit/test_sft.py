from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfalign.errors import Interrupted, RunFailed, TimeUp, UserError
from selfalign.models.rendering import make_renderer
from selfalign.protocols import TrainJob, TrainResult
from selfalign.record.checkpoints import read_manifest
from selfalign.trainers import SFT, CrossEntropy
from selfalign.trainers._batches import Row, Unit, Weights, plan, tokenise, weigh
from selfalign.trainers._child import arguments
from selfalign.trainers._guard import make_guard
from selfalign.trainers._weighted import NotFinite, Steps, collate, make_trainer, weighted_sum
from selfalign.types import Example, ModelRef, Turns
from tests.tiny import tiny_tokenizer, train_job

STEPS = 4
EVEN = Weights(1.0, 1.0, 1.0)
SMALL = SFT(learning_rate=1e-3, epochs=2, batch_size=4, micro_batch=2, save_every=1)


class Quiet:
    """Notes what it is told, and may interrupt."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.seen: list[tuple[object, ...]] = []
        self.steps, self.interrupt_at = 0, interrupt_at
        self.said: list[str] = []

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.seen.append(("start", total, done))

    def advance(self, count: int = 1, note: str = "") -> None:
        self.seen.append(("advance", count, note))
        self.steps += count
        if self.steps == self.interrupt_at:
            raise Interrupted(signal.SIGINT)

    def finish(self) -> None:
        self.seen.append(("finish",))

    def say(self, text: str) -> None:
        self.said.append(text)


class Silent:
    speaks = True

    def tell(self, **message: Any) -> None: ...


def pairs(kind: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(f"{kind}{i}", f"{kind} asks {i}" + "?" * i, f"{kind} says {i}" + "!" * (2 * i)) for i in range(count))


def job(model: Path, folder: Path, **changes: object) -> TrainJob:
    made = (*pairs("made", 4), Example("long", "why " * 80, "because " * 20))
    return train_job(ModelRef(str(model), hash="start"), folder, **{"seeds": pairs("seed", 3), "generated": made, **changes})


def weights(folder: Path) -> object:
    return read_manifest(folder)["model.safetensors"]


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult, Quiet]:
    folder, progress = tmp_path_factory.mktemp("unbroken"), Quiet()
    return folder, SMALL.train(job(model, folder), progress), progress


def rows(lengths: list[tuple[bool, int]]) -> list[Row]:
    """Rows of a prompt of two tokens and a response of so many."""
    return [Row(i, seed, (5,) * (n + 2), (-100, -100, *(5,) * n)) for i, (seed, n) in enumerate(lengths)]


def alone(rows: list[Row]) -> list[Unit]:
    """Each row by itself, as the cross-entropy reads them."""
    return CrossEntropy().units(rows, ())[0]


# ---- what is read, worked out beforehand


def test_every_row_is_kept_or_lost_by_rule() -> None:
    def encode(prompt: str, response: str, history: Turns, system: str) -> tuple[list[int], list[int]]:
        if "<" in prompt:
            raise UserError("contains a marker")
        ids = list(range(len(prompt) + len(response)))
        return ids, [-100] * len(prompt) + ids[len(prompt) :]

    texts = [("ask", "answer"), ("ask", ""), ("ask", "answer " * 9), ("<ask", "answer"), ("", "a")]
    rows = [{"prompt": p, "response": r, "history": (), "system": "", "seed": True} for p, r in texts]
    kept, lost = tokenise(rows, encode, limit=20)
    assert [row.place for row in kept] == [0]
    assert [(row.place, row.rule) for row in lost] == [(1, "no_labels"), (2, "too_long"), (3, "not_renderable"), (4, "no_labels")]
    assert lost[1].evidence == "66 tokens, the limit is 20"


def test_weights_have_mean_one_and_give_the_seeds_their_share() -> None:
    data = alone(rows([(True, 10), (True, 20), (False, 50), (False, 40)]))
    given = weigh(data, 0.4)
    assert given.seed * 30 == pytest.approx(0.4 * 120) and given.generated * 90 == pytest.approx(0.6 * 120)
    assert weigh(data, None).share == 30 / 120 and weigh(data, None).seed == 1.0
    assert weigh(data[:2], 0.4) == weigh(data[:2], None) and weigh(data[:2], 0.4).share == 1.0
    assert weigh(data[2:], 0.4).share == 0.0


@pytest.mark.parametrize("devices", [1, 3])
def test_each_epoch_reads_every_row_once_in_mixed_steps_of_even_size(devices: int) -> None:
    data = alone(rows([(i % 4 == 0, 3 + i % 13) for i in range(50)]))
    steps = plan(data, seed=1, epochs=2, max_steps=0, batch=8, micro=3, devices=devices)
    assert steps == plan(data, seed=1, epochs=2, max_steps=0, batch=8, micro=3, devices=devices)
    assert len(steps) == 14
    for epoch in (steps[:7], steps[7:]):
        assert sorted(i for step in epoch for batch in step for i in batch) == list(range(50))
        for step in epoch:
            members = [i for batch in step for i in batch]
            assert len(members) in (7, 8) and len(step) % devices == 0 and max(map(len, step)) <= 3
            assert 1 <= sum(data[i].seed for i in members) <= 3
            lengths = [data[i].size for i in members]
            assert lengths == sorted(lengths, reverse=True)
    assert steps[:7] != steps[7:] != plan(data, seed=2, epochs=2, max_steps=0, batch=8, micro=3, devices=devices)[7:]


def test_a_number_of_steps_replaces_the_epochs() -> None:
    data = alone(rows([(True, 4)] * 10))
    assert [len(plan(data, 1, 2, steps, 4, 2)) for steps in (0, 1, 11)] == [6, 1, 11]


# ---- the loss


def gradients(model: torch.nn.Module) -> torch.Tensor:
    found = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad()
    return found


def tokenised(folder: Path) -> list[Row]:
    encode = make_renderer(AutoTokenizer.from_pretrained(folder)).training_ids
    texts = [(pair, pair.id.startswith("seed")) for pair in (*pairs("seed", 3), *pairs("made", 5))]
    rows = [{"prompt": p.prompt, "response": p.response, "history": (), "system": "", "seed": seed} for p, seed in texts]
    return tokenise(rows, encode, 256)[0]


def mean_loss(model: torch.nn.Module, data: list[Row]) -> torch.Tensor:
    """The plain definition: token by token, row by row, with all logits."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in data:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1].double()
        labels = torch.tensor(row.labels[1:])
        total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += row.learned
    return total / count


@pytest.mark.parametrize(("gamma", "micro"), [(0.3, 8), (0.3, 3), (None, 2), (1.0, 8)])
def test_gradient_is_that_of_the_weighted_means(model: Path, gamma: float | None, micro: int) -> None:
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    data = tokenised(model)
    units = alone(data)
    given = weigh(units, gamma)
    steps = plan(units, seed=0, epochs=1, max_steps=0, batch=len(data), micro=micro)
    item = Steps(units, steps, given, 0, 1, CrossEntropy().collate)[0]
    for batch in item["batches"]:
        (weighted_sum(net, batch, net.get_output_embeddings()) * item["scale"]).backward()
    found = gradients(net)
    share = given.share
    parts = [[row for row in data if row.seed], [row for row in data if not row.seed]]
    (share * mean_loss(net, parts[0]) + (1 - share) * mean_loss(net, parts[1])).backward()
    assert torch.allclose(found, gradients(net), rtol=0, atol=1e-6)
    counted = sum(row.learned for row in parts[0]) / sum(row.learned for row in data)
    assert share == (pytest.approx(counted) if gamma is None else gamma)


def test_weight_one_is_the_stock_loss(model: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    data = tokenised(model)
    padded = [
        torch.nn.utils.rnn.pad_sequence([torch.tensor(part) for part in parts], batch_first=True, padding_value=fill)
        for parts, fill in (([r.ids for r in data], 0), ([[1] * len(r.ids) for r in data], 0), ([r.labels for r in data], -100))
    ]
    stock = net(input_ids=padded[0], attention_mask=padded[1], labels=padded[2]).loss
    ours = weighted_sum(net, collate(data, EVEN, pad=0), net.get_output_embeddings()) / sum(r.learned for r in data)
    assert ours.item() == pytest.approx(stock.item(), abs=1e-6)


def test_shares_of_several_devices_add_up(model: Path) -> None:
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    data, head = alone(tokenised(model)), net.get_output_embeddings()
    losses = []
    for devices in (1, 3):
        steps = plan(data, seed=0, epochs=1, max_steps=0, batch=8, micro=4, devices=devices)
        shares = Steps(data, steps, weigh(data, 0.5), 0, devices, CrossEntropy().collate)
        with torch.no_grad():
            each = [float(weighted_sum(net, b, head)) * shares[i]["scale"] for i in range(devices) for b in shares[i]["batches"]]
        losses.append(sum(each) / devices)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_padding_with_the_end_token_still_teaches_to_stop(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    batch = collate(tokenised(model), EVEN, pad=tokenizer.pad_token_id)
    ends = (batch["targets"] == tokenizer.eos_token_id).sum(1)
    assert ends.tolist() == [1] * 8
    assert ((batch["targets"] != -100) <= (batch["attention_mask"] == 1)).all()


# ---- whole trainings, in their own process


def test_a_training_accounts_for_rows_and_leaves_a_model_that_loads(
    model: Path, unbroken: tuple[Path, TrainResult, Quiet]
) -> None:
    folder, result, progress = unbroken
    assert progress.said == [f"round 1: train: the process writes to {folder / 'training' / 'training.log'}"]
    assert result.trained == tuple(e.id for e in (*pairs("seed", 3), *pairs("made", 4)))
    assert [(d.example.id, d.rule) for d in result.dropped] == [("long", "too_long")]
    assert result.steps == STEPS == len(result.losses) and all(0 < loss < 20 for loss in result.losses)
    learned = sum(row.learned for row in tokenised(model)[:7])
    assert result.tokens == 2 * learned and 0 < result.seed_weight < 1
    assert progress.seen[0] == ("start", STEPS, 0) and progress.seen[-1] == ("finish",) and progress.steps == STEPS
    assert result.model.base == str(folder / "model") and result.model.adapter is None and len(result.model.hash) == 64
    assert weights(folder / "model") != weights(model)
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.use_cache
    assert AutoTokenizer.from_pretrained(folder / "model").chat_template == AutoTokenizer.from_pretrained(model).chat_template
    assert {oct(path.stat().st_mode & 0o777) for path in (folder / "model").iterdir()} == {"0o644"}
    assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]


def test_killed_at_every_step_it_ends_with_the_same_bits(
    model: Path, unbroken: tuple[Path, TrainResult, Quiet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run dies at the next point, the one after goes on from its checkpoint."""
    points = [
        ("train.checkpoint.before-manifest", 0),
        *[("train.checkpoint.after-manifest", done) for done in range(STEPS - 1)],
        ("train.model.before-rename", STEPS - 1),
    ]
    for point, done in points:
        monkeypatch.setenv("SELFALIGN_FAULT_AT", point)
        progress = Quiet()
        with pytest.raises(RunFailed, match="killed"):
            SMALL.train(job(model, tmp_path), progress)
        assert progress.seen[0] == ("start", STEPS, done), f"before the kill at {point}"
    monkeypatch.delenv("SELFALIGN_FAULT_AT")
    result = SMALL.train(job(model, tmp_path), Quiet())
    assert weights(tmp_path / "model") == weights(unbroken[0] / "model")
    assert result.losses == unbroken[1].losses


def test_a_training_whose_time_is_up_writes_a_checkpoint_first(
    model: Path, unbroken: tuple[Path, TrainResult, Quiet], tmp_path: Path
) -> None:
    class Late(Quiet):
        def advance(self, count: int = 1, note: str = "") -> None:
            raise TimeUp(1.0)

    rare = replace(SMALL, save_every=50)
    with pytest.raises(TimeUp):
        rare.train(job(model, tmp_path), Late())
    progress = Quiet()
    rare.train(job(model, tmp_path), progress)
    assert progress.seen[0][2] in range(1, STEPS), "begun behind the checkpoint that the file asked for"
    assert weights(tmp_path / "model") == weights(unbroken[0] / "model")


def test_settings_of_decoding_that_cannot_be_saved_cost_no_training(
    model: Path, unbroken: tuple[Path, TrainResult, Quiet], tmp_path: Path
) -> None:
    file = shutil.copytree(model, tmp_path / "start") / "generation_config.json"
    file.write_text(json.dumps(own := {"do_sample": False, "temperature": 0.7, "eos_token_id": [257, 1]}))
    SMALL.train(job(file.parent, tmp_path), Quiet())
    assert own.items() <= json.loads((tmp_path / "model" / file.name).read_text()).items()
    assert weights(tmp_path / "model") == weights(unbroken[0] / "model")


def test_a_damaged_checkpoint_is_passed_over_aloud(
    model: Path, unbroken: tuple[Path, TrainResult, Quiet], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(unbroken[0] / "training", tmp_path / "training")
    state = tmp_path / "training" / f"checkpoint-{STEPS - 1}" / "optimizer.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 4
    state.write_bytes(content)
    progress = Quiet()
    with caplog.at_level(logging.WARNING, "selfalign"):
        SMALL.train(job(model, tmp_path), progress)
    assert progress.seen[0] == ("start", STEPS, STEPS - 2) and progress.steps == 2
    assert "damaged" in caplog.text and "optimizer.pt" in caplog.text
    assert weights(tmp_path / "model") == weights(unbroken[0] / "model")


@pytest.mark.usefixtures("cold_trainings")  # a copy has imported everything already
def test_a_folder_named_as_a_package_is_none(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton").mkdir()  # transformers takes what can be found for what is there
    monkeypatch.chdir(tmp_path)
    assert replace(SMALL, max_steps=1).train(job(model, tmp_path / "run"), Quiet()).steps == 1


@pytest.mark.usefixtures("cold_trainings")  # a copy has the command line of what it was copied from
def test_an_interrupted_parent_takes_the_training_with_it(model: Path, tmp_path: Path) -> None:
    began: list[psutil.Process] = []

    class Watching(Quiet):
        def start(self, stage: str, total: int, done: int = 0) -> None:
            for child in psutil.Process().children():
                with suppress(psutil.Error):  # other tests of this process may have left helpers of their own, some at their end
                    began.extend([child] if any("trainers._child" in word for word in child.cmdline()) else [])

    with pytest.raises(Interrupted):
        SMALL.train(job(model, tmp_path), Watching(interrupt_at=1))
    assert began and not any(process.is_running() for process in began)
    assert not (tmp_path / "model").exists()


@pytest.fixture
def lone_parent(model: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains for long, and does nothing else."""
    code = (
        "from pathlib import Path\nfrom selfalign.trainers import SFT\nfrom selfalign.types import Example, ModelRef\n"
        "from tests.tiny import train_job\n"
        "class Quiet:\n    start = advance = finish = lambda *given, **named: None\n"
        f"job = train_job(ModelRef({str(model)!r}, hash='start'), Path({str(tmp_path)!r}), seeds=(Example('s', 'ask', 'say'),))\n"
        "SFT(max_steps=100000).train(job, Quiet())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    yield parent
    if parent.poll() is None:
        parent.kill()
    parent.wait()


def test_a_killed_parent_takes_the_training_with_it(lone_parent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    log = tmp_path / "training" / "training.log"
    while not (log.exists() and "loss" in log.read_text()):
        assert lone_parent.poll() is None
        time.sleep(0.1)
    children = psutil.Process(lone_parent.pid).children()
    assert len(children) == 1
    lone_parent.kill()
    lone_parent.wait()
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_a_loss_that_is_not_finite_stops_at_its_step(model: Path, tmp_path: Path) -> None:
    wild = SFT(learning_rate=1e30, epochs=2, batch_size=4, micro_batch=2, save_every=1, warmup=0.0)
    with pytest.raises(RunFailed, match=rf"is (nan|inf) at step 2 of {STEPS}; a lower trainer.learning_rate"):
        wild.train(job(model, tmp_path), Quiet())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("where", ["logits", "gradient", "weight"])
@pytest.mark.parametrize(("value", "step"), [(float("nan"), 1), (float("inf"), 3), (float("nan"), 4)])
def test_what_is_not_finite_is_found_at_its_step(model: Path, tmp_path: Path, where: str, value: float, step: int) -> None:
    from transformers import TrainerCallback

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    norm = net.get_decoder().norm.weight

    class Injury(TrainerCallback):
        now = False

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.now = state.global_step + 1 == step
            if self.now and where == "weight":
                with torch.no_grad():
                    norm[step] = value

    injury = Injury()

    def hurt(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.masked_fill(tensor == tensor.max(), value) if injury.now else tensor

    if where == "logits":
        net.get_output_embeddings().register_forward_hook(lambda _, __, logits: hurt(logits))
    if where == "gradient":
        norm.register_hook(hurt)
    data = alone(tokenised(model))
    steps = Steps(data, plan(data, 1, 2, 0, 4, 2), weigh(data, None), 0, 1, CrossEntropy().collate)
    spec = SMALL.spec(job(model, tmp_path))
    callbacks = [injury, make_guard(Silent(), "key", tmp_path)]
    trainer = make_trainer(net, arguments(spec, net, 4, tmp_path), steps, callbacks, CrossEntropy().total)
    with pytest.raises(NotFinite, match=f"at step {step} of 4"):
        trainer.train()
    for path in tmp_path.glob("checkpoint-*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    assert len(list(tmp_path.glob("checkpoint-*/manifest.json"))) == min(step - 1, 2)


def test_weights_that_are_not_finite_never_reach_a_checkpoint(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    net = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        net.get_input_embeddings().weight[0, 0] = float("nan")
    shutil.copytree(model, bad)
    net.save_pretrained(bad)
    with pytest.raises(RunFailed, match=rf"the loss is nan at step 1 of {STEPS}"):
        SMALL.train(job(bad, tmp_path), Quiet())
    assert not list(tmp_path.glob("training/checkpoint-*/manifest.json")) and not (tmp_path / "model").exists()


def test_an_adapter_is_trained_and_then_trained_further(model: Path, tmp_path: Path) -> None:
    lora = SFT(learning_rate=1e-2, max_steps=2, batch_size=4, lora_rank=4, lora_dropout=0.1, gradient_checkpointing=True)
    first = lora.train(job(model, tmp_path / "one"), Quiet())
    assert first.model.base == str(model) and first.model.adapter == str(tmp_path / "one" / "model")
    names = {path.name for path in (tmp_path / "one" / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    second = lora.train(job(model, tmp_path / "two", start=first.model, seed_weight=0.25), Quiet())
    assert second.model.base == str(model) and second.model.hash != first.model.hash and second.seed_weight == 0.25
    one, two = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    name = next(name for name in one if "lora_A" in name)
    assert not torch.equal(one[name], two[name])
    assert torch.allclose(one[name], two[name], atol=0.05), "trained on from the first adapter, not from a new random one"
    AutoModelForCausalLM.from_pretrained(tmp_path / "two" / "model")


def test_all_weights_are_trained_from_an_adapter(model: Path, tmp_path: Path) -> None:
    lora = SFT(learning_rate=1e-2, max_steps=1, batch_size=4, lora_rank=4)
    first = lora.train(job(model, tmp_path / "one"), Quiet())
    whole = SFT(learning_rate=1e-2, max_steps=1, batch_size=4)
    second = whole.train(job(model, tmp_path / "two", start=first.model), Quiet())
    assert second.model.adapter is None
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (model, second.model.base))
    assert [name for name in before if torch.equal(before[name].float(), after[name].float())] == []


def test_an_adapter_of_the_output_layer_leaves_the_embeddings_it_was_tied_to(model: Path, tmp_path: Path) -> None:
    lora = SFT(learning_rate=1e-2, max_steps=1, batch_size=4, lora_rank=4, lora_target=".*(q_proj|lm_head)")
    first = lora.train(job(model, tmp_path / "one"), Quiet())
    second = replace(SMALL, learning_rate=1e-12, max_steps=1).train(job(model, tmp_path / "two", start=first.model), Quiet())
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (model, second.model.base))
    embedded = "model.embed_tokens.weight"
    assert torch.allclose(before[embedded].float(), after[embedded].float(), atol=1e-6)
    assert not torch.allclose(before[embedded].float(), after["lm_head.weight"].float(), atol=1e-6)
    assert not json.loads((Path(second.model.base) / "config.json").read_text())["tie_word_embeddings"]


def test_no_row_is_longer_than_the_window_whatever_max_length_says(model: Path, tmp_path: Path) -> None:
    done = replace(SMALL, epochs=1, max_length=100_000).train(job(model, tmp_path), Quiet())
    assert [(drop.example.id, drop.rule) for drop in done.dropped] == [("long", "too_long")]
    assert "the limit is 256" in done.dropped[0].evidence


def test_nothing_to_train_on_is_said_in_one_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"nothing to train on: all 8 rows dropped, the first one as too_long \(\d+ tokens"):
        SFT(max_length=3).train(job(model, tmp_path), Quiet())


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"epochs": 0}, {"warmup": 1.0}, {"schedule": "sine"}])
def test_options_out_of_range_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SFT(**wrong)  # type: ignore[arg-type]


def test_activations_computed_twice_teach_the_same(model: Path, tmp_path: Path) -> None:
    twice, kept = (
        replace(SMALL, gradient_checkpointing=on).train(job(model, tmp_path / str(on)), Quiet()).losses for on in (True, False)
    )
    assert twice == pytest.approx(kept, abs=1e-5)


def test_an_architecture_that_keeps_its_activations_trains_all_the_same(tmp_path: Path) -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    tokenizer = tiny_tokenizer(context=256)
    net = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2))
    assert not net.supports_gradient_checkpointing
    net.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    assert SMALL.train(job(tmp_path / "start", tmp_path), Quiet()).steps == STEPS


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_what_few_steps_change_is_not_rounded_away(model: Path, tmp_path: Path, kind: torch.dtype) -> None:
    changes = []
    for stored in (torch.float32, kind):  # the same weights, which both types have
        network = AutoModelForCausalLM.from_pretrained(model).to(kind).to(stored)
        folder = tmp_path / str(stored)
        shutil.copytree(model, folder)
        network.save_pretrained(folder)
        trainer = SFT(learning_rate=2e-5, epochs=1, batch_size=4, micro_batch=2, warmup=0.0, precision="fp32")
        result = trainer.train(job(folder, tmp_path / f"{stored}-run"), Quiet())
        begun, ended = (AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (folder, result.model.base))
        assert ended.config.dtype == torch.float32 and read_dtype(Path(result.model.base)) == stored
        changes.append(torch.cat([(b - a).flatten() for a, b in zip(begun.parameters(), ended.parameters(), strict=True)]))
    whole, kept = changes
    assert 0.9 < (kept @ whole / (whole @ whole)).item() < 1.1, "on average all of the change is there"


def read_dtype(folder: Path) -> torch.dtype:
    kinds = {weight.dtype for weight in load_file(folder / "model.safetensors").values()}
    assert len(kinds) == 1
    return kinds.pop()

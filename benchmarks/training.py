"""Training speed of `SFT` beside TRL's `SFTTrainer` and a bare PyTorch loop: the same rows in the same steps, full and LoRA.

    pip install trl    # for its lines only; the library does not need it
    python benchmarks/training.py MODEL [--data PAIRS.jsonl …] [--pairs 300] [--steps N] [--runs 1] [--only NAME …]

Pairs are JSONL rows with "prompt" and "response": those of --data (the general-*.jsonl of `study_data.py`, say), else the
bundled seeds and held-out pairs. Without --steps each training goes once over all of them.

- selfalign: `SFT` at its defaults.
- TRL: `SFTTrainer` on chat messages at the defaults of `SFTConfig` (bf16 autocast over float32 weights, gradient
  checkpointing) but for what equal work demands: batch, steps, order of rows; no saving, and every step's loss is logged.
  "no checkpointing" is its best. Its rows have one token more, the template's line break behind the end token.
- bare loop: float32 weights, a padded batch, labels of -100 on prompts, the model's own loss, bf16 autocast, fused AdamW.

All take steps of 8 at the same rate (full 2e-5; LoRA 2e-4, rank 16, alpha 32, all linear layers), so that their first losses are
about equal; the schedules differ, and with them the last losses. `SFT` in other precisions and micro-batches, in steps of 16,
is there by name only: see --help. Pairs of more than 1,024 tokens, which TRL would cut, are left out, and what fills no step.
Each training runs in a process of its own; --runs go round all of them in turn, and medians are shown. The first two steps do
not count. Tokens are those of prompt and response as `SFT` renders them, without padding; processor's seconds are of all threads
of the processes that train, peak memory of the one that does. Threads are torch's default for all, or OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from selfalign.models.names import resolve_model

BUNDLED = Path(__file__).parents[1] / "src/selfalign/data/safe_helpful"
LONGEST = 1024
"""Tokens of a pair; `SFTConfig` cuts longer ones."""
LEFT_OUT = 2
"""Steps at the beginning that do not count: memory is first claimed in them."""
SEED = 7
RATES = {"full": 2e-5, "LoRA": 2e-4}
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass(frozen=True)
class Work:
    """What one training is to do, and where."""

    model: str
    folder: str
    pairs: list[dict[str, str]]
    steps: list[list[int]]
    """The places of each step's pairs."""
    tokens: list[int]
    """Of each step."""

    def rows(self, step: Sequence[int]) -> list[dict[str, str]]:
        return [self.pairs[place] for place in step]


@dataclass
class Clock:
    """Progress that notes when each step ended, and the processor's seconds until then, of this process and its children."""

    times: list[tuple[float, float]] = field(default_factory=list)

    def start(self, stage: str = "", total: int = 0, done: int = 0) -> None:
        self.advance()

    def advance(self, count: int = 1, note: str = "") -> None:
        this = psutil.Process()
        spent = [each.cpu_times() for each in (this, *this.children(recursive=True))]
        self.times.append((time.perf_counter(), sum(each.user + each.system for each in spent)))

    def finish(self) -> None: ...


def selfalign(work: Work, clock: Clock, kind: str, **options: Any) -> Sequence[float]:
    from selfalign.protocols import TrainJob
    from selfalign.trainers import SFT
    from selfalign.types import Example, ModelRef

    folder = Path(work.folder)
    job = TrainJob(
        round=1,
        start=ModelRef(work.model, hash="benchmark"),
        seeds=tuple(Example(f"pair-{place}", row["prompt"], row["response"]) for place, row in enumerate(work.pairs)),
        generated=(),
        seed_weight=None,
        format="auto",
        seed=SEED,
        learning_rate_scale=1.0,
        work=folder / "training",
        out=folder / "model",
        steps=len(work.steps),
    )
    adapter = {"lora_rank": LORA["r"], "lora_alpha": LORA["lora_alpha"]} if kind == "LoRA" else {}
    # The others save nothing on their way either.
    trainer = SFT(learning_rate=RATES[kind], save_every=len(work.steps) + 1, **adapter, **options)
    return trainer.train(job, clock).losses


def trl(work: Work, clock: Clock, kind: str, **options: Any) -> Sequence[float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Timed(TrainerCallback):  # type: ignore[misc, no-any-unimported, unused-ignore]
        def on_train_begin(self, *_: Any, **parts: Any) -> None:
            clock.start()

        def on_step_end(self, *_: Any, **parts: Any) -> None:
            clock.advance()

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = [
        {"prompt": turn("user", row["prompt"]), "completion": turn("assistant", row["response"])}
        for step in work.steps
        for row in work.rows(step)
    ]
    config = SFTConfig(
        output_dir=work.folder,
        per_device_train_batch_size=len(work.steps[0]),
        max_steps=len(work.steps),
        train_sampling_strategy="sequential",
        learning_rate=RATES[kind],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
        **options,
    )
    adapter = LoraConfig(**LORA) if kind == "LoRA" else None
    trainer = SFTTrainer(work.model, config, train_dataset=Dataset.from_list(rows), peft_config=adapter, callbacks=[Timed()])
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def bare(work: Work, clock: Clock, kind: str) -> Sequence[float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from selfalign.models.device import choose_device
    from selfalign.models.rendering import make_renderer

    device = choose_device("auto")
    tokenizer: Any = AutoTokenizer.from_pretrained(work.model)
    encode = make_renderer(tokenizer).training_ids
    steps = [[encode(row["prompt"], row["response"]) for row in work.rows(step)] for step in work.steps]
    model: Any = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    if kind == "LoRA":
        model = get_peft_model(model, LoraConfig(**LORA))
    model.to(device).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATES[kind], fused=True)
    losses = []
    clock.start()
    for rows in steps:
        width = max(len(ids) for ids, _ in rows)
        padded = {
            "input_ids": [ids + [0] * (width - len(ids)) for ids, _ in rows],
            "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows],
            "labels": [labels + [-100] * (width - len(labels)) for _, labels in rows],
        }
        batch = {name: torch.tensor(values, device=device) for name, values in padded.items()}
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        clock.advance()
    return losses


Train = Callable[..., Sequence[float]]
"""(work, clock, "full" or "LoRA", options) to the loss of each step."""

WAYS: tuple[tuple[str, str, Train, dict[str, Any]], ...] = (
    ("selfalign", "", selfalign, {}),
    ("TRL", "", trl, {}),
    ("TRL", ", no checkpointing", trl, {"gradient_checkpointing": False}),
    ("bare loop", "", bare, {}),
)
SIDE_BY_SIDE = {
    f"{name} {kind}{which}": (train, {"kind": kind, **options}) for kind in RATES for name, which, train, options in WAYS
}
BY_NAME: dict[str, dict[str, Any]] = {
    "full fp32": {"precision": "fp32"},
    "full auto": {},
    "full bf16 autocast": {"precision": "bf16"},
    "full auto, micro-batch 4": {"micro_batch": 4},
    "full auto, micro-batch 16": {"micro_batch": 16},
    "full auto, gradient checkpointing": {"gradient_checkpointing": True},
    "LoRA 16 fp32": {"precision": "fp32"},
    "LoRA 16 auto": {},
    "LoRA 16 bf16 autocast": {"precision": "bf16"},
}
TRAININGS: dict[str, tuple[Train, dict[str, Any]]] = SIDE_BY_SIDE | {
    name: (selfalign, {"batch_size": 16, "micro_batch": 8, "kind": name.split()[0], **options})
    for name, options in BY_NAME.items()
}


def read_pairs(files: Sequence[Path]) -> list[dict[str, str]]:
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [{"prompt": row["prompt"], "response": row["response"]} for row in rows if row.get("response")]


def prepare(model: str, pairs: Sequence[dict[str, str]], most: int, batch: int, count: int) -> tuple[Work, str]:
    """The steps that `SFT` takes with the first `most` pairs that fit, for all to take; and a line about them."""
    from transformers import AutoTokenizer

    from selfalign.models.rendering import make_renderer
    from selfalign.trainers import CrossEntropy
    from selfalign.trainers._batches import plan, tokenise

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    limit = min(LONGEST, tokenizer.model_max_length)
    given = [{**pair, "history": (), "system": "", "seed": True} for pair in pairs]
    rows, lost = tokenise(given, make_renderer(tokenizer).training_ids, limit)
    rows = rows[: min(most, len(rows)) // batch * batch]
    if not rows:
        raise SystemExit(f"{len(pairs)} pairs, {len(lost)} unfit: not enough for one step of {batch}; name more with --data")
    steps = plan(CrossEntropy().units(rows, ())[0], SEED, 1, count, batch, batch)
    if len(steps) <= LEFT_OUT:
        raise SystemExit(f"{len(steps)} steps: the first {LEFT_OUT} are left out, so it takes at least {LEFT_OUT + 1}")
    order = [[place for part in step for place in part] for step in steps]
    tokens = [sum(len(rows[place].ids) for place in step) for step in order]
    told = (
        f"{len(rows)} pairs of {len(pairs)} ({len(lost)} unfit: more than {limit} tokens or not to be rendered), "
        f"{len(steps)} steps of {batch}, {statistics.mean(tokens) / batch:.0f} tokens a pair"
    )
    return Work(model, "", [dict(pairs[row.place]) for row in rows], order, tokens), told


def measure(name: str, job: Path) -> None:
    """In a process of its own: the training of `job` (a `Work` as JSON), its figures written beside it."""
    train, options = TRAININGS[name]
    work, clock = Work(**json.loads(job.read_text(encoding="utf-8"))), Clock()
    losses = train(work, clock, **options)
    steps = len(work.steps) - LEFT_OUT
    (began, worked), (ended, worked_then) = clock.times[LEFT_OUT], clock.times[-1]
    assert len(clock.times) == len(work.steps) + 1 == len(losses) + 1, "a training took another number of steps"
    figures = {
        "speed": sum(work.tokens[LEFT_OUT:]) / (ended - began),
        "wall": (ended - began) / steps,
        "processor": (worked_then - worked) / steps,
        "peak": peak(),
        "first": losses[0],
        "last": losses[-1],
    }
    job.with_name("figures.json").write_text(json.dumps(figures), encoding="utf-8")


def peak() -> float:
    """MiB of this process (not by its ru_maxrss, which starts from its parent's) or of a child of it, whichever took more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    own = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def in_child(name: str, work: Work) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        job, log = Path(folder) / "job.json", Path(folder) / "log.txt"
        job.write_text(json.dumps({**asdict(work), "folder": folder}), encoding="utf-8")
        with log.open("wb") as output:
            command = [sys.executable, __file__, work.model, "--child", name, str(job)]
            failed = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        if failed:
            raise SystemExit(f"{log.read_text(encoding='utf-8', errors='replace')}\n{name} failed")
        found: dict[str, float] = json.loads(job.with_name("figures.json").read_text(encoding="utf-8"))
        return found


def show(results: dict[str, list[dict[str, float]]]) -> None:
    head = ("tokens/s", "each run", "to TRL", "s/step", "processor's s", "to TRL by these", "peak MiB", "first loss", "last loss")
    print(f"\n| training | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}")
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()}
    for name, one in medians.items():
        base = medians.get(f"TRL {TRAININGS[name][1]['kind']}")
        cells = (
            f"{one['speed']:.0f}",
            ", ".join(f"{run['speed']:.0f}" for run in results[name]),
            f"{one['speed'] / base['speed']:.2f}" if base else "–",
            f"{one['wall']:.2f}",
            f"{one['processor']:.2f}",
            f"{base['processor'] / one['processor']:.2f}" if base else "–",
            f"{one['peak']:,.0f}",
            f"{one['first']:.4f}",
            f"{one['last']:.4f}",
        )
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or smollm2-135m")
    bundled = [BUNDLED / "seeds.jsonl", BUNDLED / "held_out.jsonl"]
    parser.add_argument("--data", type=Path, nargs="+", default=bundled, metavar="FILE")
    parser.add_argument("--pairs", type=int, default=300, help="how many pairs at most")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps; 0: once over all pairs")
    parser.add_argument("--runs", type=int, default=1)
    names = list(TRAININGS)
    parser.add_argument("--only", nargs="+", choices=names, default=list(SIDE_BY_SIDE), metavar="NAME", help="; ".join(names))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child[0], Path(options.child[1]))
        return
    if any(TRAININGS[name][0] is trl for name in options.only) and importlib.util.find_spec("trl") is None:
        raise SystemExit("TRL is not installed: pip install trl, or name the lines to run without it with --only")
    model, pairs, works = resolve_model(options.model), read_pairs(options.data), {}
    for name in options.only:
        batch = TRAININGS[name][1].get("batch_size", 8)
        if batch not in works:
            works[batch], told = prepare(model, pairs, options.pairs, batch, options.steps)
            print(told)
    packages = [name for name in ("torch", "transformers", "trl", "peft") if importlib.util.find_spec(name)]
    threads = os.environ.get("OMP_NUM_THREADS", f"torch's default, {os.cpu_count()} processors")
    print(f"{', '.join(f'{name} {version(name)}' for name in packages)}; threads: {threads}")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    try:
        for run in range(options.runs):
            for name in options.only:
                results[name].append(in_child(name, works[TRAININGS[name][1].get("batch_size", 8)]))
                print(f"run {run + 1}, {name}: {results[name][-1]['speed']:.0f} tokens/s", file=sys.stderr, flush=True)
    finally:
        show({name: runs for name, runs in results.items() if runs})


if __name__ == "__main__":
    main()

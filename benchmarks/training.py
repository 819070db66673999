"""Speed, memory and loss of `SFT` on one model: full or LoRA, three precisions, several micro-batches.

    python benchmarks/training.py MODEL_FOLDER [--steps 12] [--only NAME …]

Trains on the bundled seeds and held-out pairs (short chats). Each line is a training in a process of its own; the first
two steps are left out of its speed. Tokens are those of prompt and response, without padding.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from selfalign.protocols import TrainJob
from selfalign.trainers.sft import SFT
from selfalign.types import Example, ModelRef

DATA = Path(__file__).parents[1] / "src/selfalign/data/safe_helpful"
VARIANTS: dict[str, dict[str, Any]] = {
    "full fp32": {"precision": "fp32"},
    "full auto": {"precision": "auto"},
    "full bf16 autocast": {"precision": "bf16"},
    "full auto, micro-batch 4": {"micro_batch": 4},
    "full auto, micro-batch 16": {"micro_batch": 16},
    "full auto, gradient checkpointing": {"gradient_checkpointing": True},
    "LoRA 16 fp32": {"precision": "fp32", "lora_rank": 16, "learning_rate": 2e-4},
    "LoRA 16 auto": {"lora_rank": 16, "learning_rate": 2e-4},
    "LoRA 16 bf16 autocast": {"precision": "bf16", "lora_rank": 16, "learning_rate": 2e-4},
}


class Clock:
    """Progress that notes when each step ended."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.times.append(time.perf_counter())

    def advance(self, count: int = 1, note: str = "") -> None:
        self.times.append(time.perf_counter())

    def finish(self) -> None: ...


def pairs() -> tuple[Example, ...]:
    rows = [json.loads(line) for name in ("seeds", "held_out") for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    return tuple(Example(row["id"], row["prompt"], row["response"]) for row in rows if row.get("response"))


def mean_tokens(model: str) -> float:
    from transformers import AutoTokenizer

    from selfalign.rendering import make_renderer

    encode = make_renderer(AutoTokenizer.from_pretrained(model), "auto").training_ids
    lengths = [len(encode(pair.prompt, pair.response)[0]) for pair in pairs()]
    return sum(lengths) / len(lengths)


def measure(model: str, name: str, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        clock, work = Clock(), Path(folder)
        job = TrainJob(
            round=1,
            start=ModelRef(model, hash="benchmark"),
            seeds=pairs()[:64],
            generated=pairs()[64:],
            seed_weight=None,
            format="auto",
            seed=7,
            learning_rate_scale=1.0,
            work=work / "work",
            out=work / "model",
        )
        trainer = SFT(**{"batch_size": 16, "micro_batch": 8, "max_steps": steps, **VARIANTS[name]})
        result = trainer.train(job, clock)
        whole = time.perf_counter() - clock.times[0]
    return {
        "loading": clock.times[1] - clock.times[0],
        "step": (clock.times[-1] - clock.times[3]) / (steps - 2),
        "whole": whole,
        "losses": result.losses,
        "examples": trainer.batch_size,
        "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, options.one, options.steps)))
        return
    tokens = mean_tokens(options.model)
    print(f"{len(pairs())} pairs, {tokens:.0f} tokens each on average, {options.steps} steps of 16\n")
    print("| training | tokens/s | s/step | until first step, s | whole, s | peak MiB | first loss | last loss |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.only:
        command = [sys.executable, __file__, options.model, "--steps", str(options.steps), "--one", name]
        got = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        speed = got["examples"] * tokens / got["step"]
        print(
            f"| {name} | {speed:.0f} | {got['step']:.2f} | {got['loading']:.1f} | {got['whole']:.1f} | {got['peak']:.0f} "
            f"| {got['losses'][0]:.4f} | {got['losses'][-1]:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The memory that a training takes, by the formula of `trainers/_memory.py` and measured, for random weights of known shapes.

    PYTHONPATH=. python benchmarks/memory.py [--shapes 135M 360M] [--methods full lora qlora] [--rows 8] [--tokens 256]

Shapes are those of SmolLM2-135M and -360M and Llama-3.2-1B, stored in bf16. `--rows` is the micro-batch, `--batch` the step;
every row has `--tokens` tokens, half of them learned. `--twice` computes activations twice. The training runs as in a run, in a
process of its own; measured is the peak of its resident set. A base that was read into 4 bits is still mapped then, and is taken
off: the system gives its pages to whoever needs them. Anonymous memory is shown with it, read every 10 ms.
With `--device cuda` it runs on the first GPU, and measured is how much of that one's memory is taken above what was taken before,
read every 10 ms, by whomever: let nothing else use it.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from selfalign.models.device import choose_device, device_memory
from selfalign.protocols import TrainJob
from selfalign.trainers import SFT
from selfalign.types import Example, ModelRef
from tests.tiny import tiny_tokenizer

SHAPES = {
    # hidden, inner, layers, heads, key-value heads, words
    "135M": (576, 1536, 30, 9, 3, 49152),
    "360M": (960, 2560, 32, 15, 5, 49152),
    "1B": (2048, 8192, 16, 32, 8, 128256),
}
TEMPLATE = 27
"""Tokens that the tokenizer's template writes around a pair of one turn, one byte a token."""


class Silent:
    def start(self, stage: str = "", total: int = 0, done: int = 0) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def finish(self) -> None: ...


class Watch(threading.Thread):
    """The highest anonymous and resident memory of this process's child that trains, and of a GPU what is taken meanwhile."""

    def __init__(self, device: str) -> None:
        super().__init__(daemon=True)
        self.anonymous, self.resident, self.over = 0, 0, False
        self._device = choose_device(device)
        self._free, self.taken = device_memory(self._device)[1], 0

    def run(self) -> None:
        while not self.over:
            for child in psutil.Process().children():
                try:
                    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                except OSError:
                    continue
                kept = [line.split() for line in lines if line.startswith(("RssAnon", "VmHWM"))]
                found = {name: 1024 * int(size) for name, size, _ in kept}
                self.anonymous = max(self.anonymous, found.get("RssAnon:", 0))
                self.resident = max(self.resident, found.get("VmHWM:", 0))
            if self._device.type == "cuda":
                self.taken = max(self.taken, self._free - device_memory(self._device)[1])
            time.sleep(0.01)


def make(folder: Path, shape: str, window: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, layers, heads, shared, words = SHAPES[shape]
    tokenizer = tiny_tokenizer(context=window)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(folder)


def measure(model: Path, folder: Path, method: Any, options: argparse.Namespace) -> tuple[Any, Watch, float]:
    half = (options.tokens - TEMPLATE) // 2
    rows = tuple(Example(f"row-{n}", "a" * half, "b" * half) for n in range(options.batch))
    trainer = SFT(
        method=method,
        batch_size=options.batch,
        micro_batch=options.rows,
        gradient_checkpointing=options.twice,
        max_steps=options.steps,
        device=options.device,
        precision=options.precision,
    )
    choice = trainer.choice(ModelRef(str(model)), options.tokens, options.tokens // 2)
    job = TrainJob(
        round=1,
        start=ModelRef(str(model), hash="benchmark"),
        seeds=rows,
        generated=(),
        seed_weight=None,
        format="auto",
        seed=7,
        learning_rate_scale=1.0,
        work=folder / "training",
        out=folder / "model",
    )
    watch, began = Watch(options.device), time.perf_counter()
    watch.start()
    trainer.train(job, Silent())
    watch.over = True
    watch.join()
    assert choice is not None
    return choice.need, watch, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["135M", "360M"])
    parser.add_argument("--methods", nargs="+", choices=("full", "lora", "qlora"), default=["full", "lora", "qlora"])
    for name, value in (("rows", 8), ("batch", 8), ("tokens", 256), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--twice", action="store_true", help="compute activations twice instead of keeping them")
    options = parser.parse_args()
    head = ("shape", "method", "formula, GB", "measured, GB", "formula to measured", "anonymous, GB", "seconds")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "start", shape, 2 * options.tokens)
            for method in options.methods:
                need, watch, seconds = measure(Path(folder) / "start", Path(folder) / method, method, options)
                mapped = (Path(folder) / "start" / "model.safetensors").stat().st_size if method == "qlora" else 0
                peak = watch.taken or watch.resident - mapped
                ratio = f"{need.total / peak - 1:+.0%}"
                figures = (f"{need.total / 1e9:.2f}", f"{peak / 1e9:.2f}", ratio, f"{watch.anonymous / 1e9:.2f}")
                print(f"| {shape} | {method} | {' | '.join(figures)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

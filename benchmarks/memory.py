"""The memory that a training takes, by the formula of `trainers/_memory.py` and measured, for random weights of known shapes.

    PYTHONPATH=. python benchmarks/memory.py [--shapes 135M 360M] [--methods full lora qlora] [--rows 8] [--tokens 256]

Shapes are those of SmolLM2-135M and -360M and Llama-3.2-1B, stored in bf16. `--rows` is the micro-batch, `--batch` the step;
the longest row has `--tokens` tokens, half of them learned, and every other one is shorter by one: rows of one length need no
mask, and attention then keeps less than it does in a run. `--twice` computes activations twice. The training runs as in a run,
in a process of its own; measured is the peak of its resident set from the first step on, as Linux keeps it, without those pages
of the model's file that are still mapped and hold no weight in use: the system can take them back. `--steps 1` ends before
there are moments.
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

from selfalign.models.device import choose_device, device_memory, half_type
from selfalign.models.rendering import make_renderer
from selfalign.models.sizes import read_sizes
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


class Begins:
    """Told when the model is loaded and its steps begin: sets back what the system keeps as the training process's peak."""

    def start(self, stage: str = "", total: int = 0, done: int = 0) -> None:
        for child in psutil.Process().children():
            Path(f"/proc/{child.pid}/clear_refs").write_text("5")

    def advance(self, count: int = 1, note: str = "") -> None: ...
    def finish(self) -> None: ...


class Watch(threading.Thread):
    """The peak of the resident memory of this process's child that trains, what of it is the model's file, and of a GPU what is
    taken meanwhile."""

    def __init__(self, device: str, model: Path) -> None:
        super().__init__(daemon=True)
        self.resident, self.mapped, self.over = 0, 0, False
        self._file = str((model / "model.safetensors").resolve())
        self._device = choose_device(device)
        self._free, self.taken = device_memory(self._device)[1], 0

    def run(self) -> None:
        while not self.over:
            for child in psutil.Process().children():
                try:
                    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                    mapped = sum(each.rss for each in child.memory_maps() if each.path == self._file)
                except (OSError, psutil.Error):
                    continue
                # The last that is read: the highest one would be that of loading. An ending process has none.
                if peak := [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]:
                    self.resident, self.mapped = peak[0], mapped
            if self._device.type == "cuda":
                self.taken = max(self.taken, self._free - device_memory(self._device)[1])
            time.sleep(0.01 if self._device.type == "cuda" else 0.2)


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
    renderer = make_renderer(tiny_tokenizer())
    answer = "b" * (options.tokens // 2 - 1)  # and the end token, which is learned too
    prompt = "a" * (options.tokens - len(renderer.training_ids("", answer)[0]))  # one letter is one token
    rows = tuple(Example(f"row-{n}", prompt[n % 2 :], answer) for n in range(options.batch))
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
    watch, began = Watch(options.device, model), time.perf_counter()
    watch.start()
    trainer.train(job, Begins())
    watch.over = True
    watch.join()
    assert choice is not None
    return choice.need, watch, time.perf_counter() - began


def in_use(model: Path, method: str, options: argparse.Namespace) -> int:
    """Bytes of a mapped model file that are weights of the training: what of a frozen base is neither widened nor of 4 bits."""
    sizes, half = read_sizes(model), half_type(choose_device(options.device), options.precision)
    outside = sizes.weights - sum(one * other for one, other in sizes.matrices.values())
    frozen = {"full": 0, "lora": sizes.weights, "qlora": outside}[method]
    return 2 * frozen if str(half) == "torch.bfloat16" else 0


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
    head = ("shape", "method", "formula, GB", "measured, GB", "formula to measured", "seconds")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "start", shape, 2 * options.tokens)
            for method in options.methods:
                need, watch, seconds = measure(Path(folder) / "start", Path(folder) / method, method, options)
                used = in_use(Path(folder) / "start", method, options)
                peak = watch.taken or watch.resident - max(watch.mapped - used, 0)
                figures = (f"{need.total / 1e9:.2f}", f"{peak / 1e9:.2f}", f"{need.total / peak - 1:+.0%}")
                print(f"| {shape} | {method} | {' | '.join(figures)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

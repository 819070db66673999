"""How fast a GPU generates and trains with selfalign: the parts of `gpu.py` that measure. It calls this, one part a process.

    python benchmarks/gpu_speed.py PART --out FOLDER [--model M] [--device cuda] [--prompts 512] [--length 350] [--tokens 64]
        [--batch 128] [--runs 3] [--vllm_python /opt/vllm/bin/python]

- facts: the device, the versions, whether float32 is TF32 there, and what it does on a large matrix product in bf16 and fp16.
- rows: that draws belong to a row: the same texts when they are asked for again, and in float32 in batches of other sizes; it
  fails where they are not. How many are the same in bf16 is said.
- generation: the HF engine, transformers' `generate` on the same padded batches, and its continuous batching
  (`generate_batch`), on the prompts of `generation.py`; every row writes all its tokens but in the line "rows end".
- vllm: the VLLM engine, in this Python or --vllm_python: seconds to check and load, and the same rows; the share of greedy texts
  that are those of HF, how far log-probabilities and embeddings lie from HF's, for the base model and under a random LoRA
  adapter on all linear layers; and whether the GPU's memory is free again when the sessions are over.
- training: `SFT`, full and LoRA, and a bare loop, as `training.py` runs them (TRL's lines too, where it is installed). The share
  of the peak is 6 floating-point operations for each weight and token (Kaplan et al., arXiv 2001.08361; what is computed a
  second time under gradient checkpointing does not count) by what the device does on a large bf16 matrix product.

Each part prints its tables and writes its figures to FOLDER/PART.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import generation
import training

from selfalign.engines import HF, VLLM
from selfalign.models.device import choose_device, device_memory
from selfalign.models.names import resolve_model
from selfalign.types import ModelRef, Request, Sampling

SQUARE = {"cuda": 8192, "cpu": 512}
"""Rows of the matrices whose product tells the peak."""


def facts(_: argparse.Namespace, device: Any) -> dict[str, Any]:
    import torch

    named = f"{torch.cuda.get_device_name(device)}, {device_memory(device)[0] / 2**30:.0f} GiB" if on_gpu(device) else str(device)
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    print(f"{named}; {', '.join(map(' '.join, packages.items()))}, CUDA {torch.version.cuda}")
    matrices = torch.get_float32_matmul_precision()
    print(
        f"float32 products: {matrices}{'' if matrices == 'highest' else ' (TF32: something here allows it, selfalign does not)'}"
    )
    peaks = {str(kind).removeprefix("torch."): peak(device, kind) for kind in (torch.bfloat16, torch.float16)}
    print(f"a large matrix product: {', '.join(f'{rate / 1e12:.2f} TFLOP/s in {kind}' for kind, rate in peaks.items())}")
    count = torch.cuda.device_count() if on_gpu(device) else 0
    return {"device": named, "kind": device.type, "gpus": count, "packages": packages, "float32": matrices, "peaks": peaks}


def on_gpu(device: Any) -> bool:
    return bool(device.type == "cuda")


def peak(device: Any, kind: Any) -> float:
    """Floating-point operations a second in the best of ten matrix products."""
    import torch

    size = SQUARE[device.type]
    one, other = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(11):  # the first one, which loads the kernels, is never the best
        began = time.perf_counter()
        one @ other
        if on_gpu(device):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def drawn_rows(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        engine = HF(batch_size=8, dtype=dtype, device=str(device))
        with engine.open(engine.check(ModelRef(options.model), (), "auto"), "auto") as session:
            rows = generation.requests(8, options.length, session._texts.ids)
            sampling = Sampling(max_tokens=options.tokens)

            def write(size: int, rows: Any = rows, session: Any = session, sampling: Sampling = sampling) -> list[str]:
                parts = (rows[start : start + size] for start in range(0, len(rows), size))
                return [one.text for part in parts for one in session.generate(part, sampling)]

            first = write(8)
            same = {str(size): sum(a == b for a, b in zip(first, write(size), strict=True)) for size in (8, 3, 1)}
        found[dtype] = same
        print(f"{dtype}: {', '.join(f'{count} of 8 texts the same in batches of {size}' for size, count in same.items())}")
    if wrong := [dtype for dtype in found if found[dtype]["8"] < 8] + ["float32"] * (min(found["float32"].values()) < 8):
        raise SystemExit(f"rows draw other texts than before in {wrong[0]}")
    return found


def generate(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    from transformers import GenerationConfig

    hf = HF(batch_size=options.batch, dtype="bfloat16", device=str(device))
    sampling = Sampling(max_tokens=options.tokens)
    with hf.open(hf.check(ModelRef(options.model), (), "auto"), "auto") as session:
        rows = generation.requests(options.prompts, options.length, session._texts.ids)
        prompts, pad = [list(session._texts.ids(row)) for row in rows], session._pad()
        model = session._model

        def plain() -> None:
            for batch in session.plan(rows):
                generation.plain_generate(model, [prompts[place] for place in batch], options.tokens, pad)

        def continuous() -> None:
            config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=options.tokens, eos_token_id=-1, pad_token_id=pad)
            done = model.generate_batch(prompts, generation_config=config, persistent_manager=True)
            assert sorted(len(one.generated_tokens) for one in done.values()) == [options.tokens] * len(rows)

        ways: dict[str, Callable[[], Any]] = {
            "model.generate": plain,
            "continuous batching": continuous,
            "HF engine": lambda: generation.write_all(session, rows, sampling, ends=False),
            "HF engine, rows end": lambda: generation.write_all(session, rows, sampling, ends=True),
        }
        generation.timed(ways, 1)  # what is compiled, captured and claimed the first time does not count
        seconds = generation.timed(ways, options.runs)
        model.destroy_cached_continuous_batching_manager()  # its cache would be missing below
    mean = statistics.mean(map(len, prompts))
    print(f"\n{len(rows)} prompts of {mean:.0f} tokens, {options.tokens} new, bf16, padded batches of {options.batch}\n")
    print(f"| way | seconds, median of {options.runs} | new tokens/s | to generate |\n|---|---|---|---|")
    medians = {name: statistics.median(wall for wall, _ in runs) for name, runs in seconds.items()}
    for name, wall in medians.items():
        speed = "" if name.endswith("end") else f"{len(rows) * options.tokens / wall:,.0f}"
        print(f"| {name} | {wall:.2f} | {speed} | {wall / medians['model.generate']:.2f} |")
    return {"tokens_each": options.tokens, "rows": len(rows), "seconds": medians}


def with_vllm(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    hf = HF(batch_size=options.batch, dtype="bfloat16", device=str(device))
    engine = VLLM(python=options.vllm_python, batch_size=options.batch, dtype="bfloat16", eager=not on_gpu(device))
    before, began = device_memory(device)[1], time.perf_counter()
    base = engine.check(ModelRef(options.model), (), "auto")
    print(f"\nVLLM: checked in {time.perf_counter() - began:.1f} s, {before / 2**30:.2f} GiB free", flush=True)
    with hf.open(base, "auto") as session:
        rows = generation.requests(options.prompts, options.length, session._texts.ids)
    sampling = Sampling(max_tokens=options.tokens)
    models = {"base": base, "LoRA": engine.check(ModelRef(base.base, str(random_adapter(base.base, options.out))), (), "auto")}
    found: dict[str, Any] = {}
    for name, model in models.items():
        hers = compared(hf, model, rows[:32], options.tokens)
        began = time.perf_counter()
        with engine.open(model, "auto") as session:
            session.generate(rows[:1], Sampling(max_tokens=1))
            print(f"{name}: vLLM loaded in {time.perf_counter() - began:.1f} s", flush=True)
            ways = {
                f"VLLM engine{ending}": partial(generation.write_all, session, rows, sampling, ends=bool(ending))
                for ending in ("", ", rows end")
            }
            seconds = {
                way: statistics.median(wall for wall, _ in runs) for way, runs in generation.timed(ways, options.runs).items()
            }
            for way, wall in seconds.items():
                print(f"{name}: {way}: {wall:.2f} s, median of {options.runs}", flush=True)
        ours = compared(engine, model, rows[:32], options.tokens)
        texts, scores, vectors = (list(zip(*both, strict=True)) for both in zip(ours, hers, strict=True))
        same = statistics.mean(one == other for one, other in texts)
        print(f"{name}: {same:.0%} of {len(texts)} greedy texts are those of HF (bf16)")
        apart, alike = max(abs(one - other) for one, other in scores), min(float(one @ other) for one, other in vectors)
        print(f"{name}: log-probabilities within {apart:.3f} nats a token of HF's")
        print(f"{name}: embeddings with a cosine of {alike:.4f} or more to HF's")
        found[name] = {"seconds": seconds, "same_texts": same, "nats_apart": apart, "cosine": alike}
    after = device_memory(device)[1]
    print(f"memory that is free behind it all: {after / 2**30:.2f} GiB of {before / 2**30:.2f} before", flush=True)
    return {**found, "free_before": before, "free_after": after}


def compared(engine: Any, model: ModelRef, rows: Sequence[Request], tokens: int) -> tuple[list[str], list[float], list[Any]]:
    shown = [each for row in rows for each in row.demonstrations[:1]]
    with engine.open(model, "auto") as session:
        texts = [one.text for one in session.generate(rows, Sampling(max_tokens=tokens, temperature=0.0))]
        return texts, [one.per_token for one in session.likelihood(shown)], list(session.embed([each.prompt for each in shown]))


def random_adapter(base: str, out: Path) -> Path:
    """One that changes what the model writes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), config)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data.mul_(0.2)
    adapted.save_pretrained(out / "adapter")
    return out / "adapter"


def train(options: argparse.Namespace, device: Any) -> dict[str, Any]:
    import torch

    fastest = peak(device, torch.bfloat16)
    model = resolve_model(options.model)
    pairs = training.read_pairs([training.BUNDLED / "seeds.jsonl", training.BUNDLED / "held_out.jsonl"])
    work, told = training.prepare(model, pairs, len(pairs), 8, options.steps)
    weights = count_weights(model)
    names = [
        name for name, (way, _) in training.SIDE_BY_SIDE.items() if way is not training.trl or importlib.util.find_spec("trl")
    ]
    print(f"\n{told}; {weights / 1e6:.0f} million weights; a bf16 matrix product runs at {fastest / 1e12:.1f} TFLOP/s\n")
    print("| training | tokens/s | share of the peak | s/step | first loss | last loss |\n|---|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for name in names:
        one = found[name] = training.in_child(name, work)
        share = 6 * weights * one["speed"] / fastest
        cells = (f"{one['speed']:,.0f}", f"{share:.1%}", f"{one['wall']:.3f}", f"{one['first']:.4f}", f"{one['last']:.4f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return {"weights": weights, "peak": fastest, "ways": found}


def count_weights(model: str) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return int(empty.num_parameters())


PARTS: dict[str, Callable[[argparse.Namespace, Any], dict[str, Any]]] = {
    "facts": facts,
    "rows": drawn_rows,
    "generation": generate,
    "vllm": with_vllm,
    "training": train,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    sizes = (("prompts", 512), ("length", 350), ("tokens", 64), ("batch", 128), ("runs", 3), ("steps", 0))
    for name, value in sizes:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--vllm_python", default="", help="an interpreter that has vLLM, where this one has not")
    options = parser.parse_args(arguments)
    found = PARTS[options.part](options, choose_device(options.device))
    (options.out / f"{options.part}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

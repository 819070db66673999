"""What selfalign makes of a GPU: generation, training and a whole run, one after the other.

    python benchmarks/gpu.py --out runs/gpu [--model M] [--prompts 512] [--length 350] [--tokens 64] [--batch 128] [--runs 3]
        [--vllm_python /opt/vllm/bin/python]

- Generation: the HF engine, transformers' `generate` on the same padded batches, and its continuous batching
  (`generate_batch`), on the prompts of `generation.py`; every row writes all its tokens but in the line "rows end".
- The VLLM engine, where this Python has vLLM or --vllm_python names one that has: seconds to check and load, and the same rows;
  the share of greedy texts that are those of HF, how far log-probabilities and embeddings lie from HF's, for the base model and
  under a random LoRA adapter on all linear layers; and whether the GPU's memory is free again when the sessions are over.
- Training: `SFT`, full and LoRA, and a bare loop, as `training.py` runs them (TRL's lines too, where it is installed). The share
  of the peak is 6 floating-point operations for each weight and token (Kaplan et al., arXiv 2001.08361; what is computed a
  second time under gradient checkpointing does not count) by what the GPU does on a large bf16 matrix product, measured here.
- A whole run: `selfalign run isara` on the bundled seeds, by stage as `stages.py` shows it; it stays in --out.

Without a GPU this says so and ends; --processor runs all of it on the processor, to try the script itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
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

SQUARE = {"cuda": 8192, "cpu": 1024}
"""Rows of the matrices whose product tells the peak."""


def facts(device: Any) -> str:
    import torch

    named = (
        f"{torch.cuda.get_device_name(device)}, {torch.cuda.mem_get_info(device)[1] / 2**30:.0f} GiB" if on_gpu(device) else "cpu"
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{named}; {packages}, CUDA {torch.version.cuda}"


def on_gpu(device: Any) -> bool:
    return bool(device.type == "cuda")


def peak(device: Any) -> float:
    """Floating-point operations a second in the best of ten bf16 matrix products."""
    import torch

    size = SQUARE[device.type]
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(11):  # the first one, which loads the kernels, is never the best
        began = time.perf_counter()
        one @ other
        if on_gpu(device):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def generate(options: argparse.Namespace, device: Any) -> None:
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


def with_vllm(options: argparse.Namespace, device: Any) -> None:
    hf = HF(batch_size=options.batch, dtype="bfloat16", device=str(device))
    engine = VLLM(python=options.vllm_python, batch_size=options.batch, dtype="bfloat16", eager=not on_gpu(device))
    before, began = device_memory(device)[1], time.perf_counter()
    base = engine.check(ModelRef(options.model), (), "auto")
    print(f"\nVLLM: checked in {time.perf_counter() - began:.1f} s, {before / 2**30:.2f} GiB free", flush=True)
    with hf.open(base, "auto") as session:
        rows = generation.requests(options.prompts, options.length, session._texts.ids)
    sampling = Sampling(max_tokens=options.tokens)
    models = {"base": base, "LoRA": engine.check(ModelRef(base.base, str(random_adapter(base.base, options.out))), (), "auto")}
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
            for way, runs in generation.timed(ways, options.runs).items():
                print(f"{name}: {way}: {statistics.median(wall for wall, _ in runs):.2f} s, median of {options.runs}", flush=True)
        ours = compared(engine, model, rows[:32], options.tokens)
        texts, scores, vectors = (list(zip(*both, strict=True)) for both in zip(ours, hers, strict=True))
        same = statistics.mean(one == other for one, other in texts)
        print(f"{name}: {same:.0%} of {len(texts)} greedy texts are those of HF (bf16)")
        print(f"{name}: log-probabilities within {max(abs(one - other) for one, other in scores):.3f} nats a token of HF's")
        print(f"{name}: embeddings with a cosine of {min(float(one @ other) for one, other in vectors):.4f} or more to HF's")
    print(
        f"memory that is free behind it all: {device_memory(device)[1] / 2**30:.2f} GiB of {before / 2**30:.2f} before",
        flush=True,
    )


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


def train(options: argparse.Namespace, fastest: float) -> None:
    model = resolve_model(options.model)
    pairs = training.read_pairs([training.BUNDLED / "seeds.jsonl", training.BUNDLED / "held_out.jsonl"])
    work, told = training.prepare(model, pairs, len(pairs), 8, options.steps)
    weights = count_weights(model)
    names = [
        name for name, (way, _) in training.SIDE_BY_SIDE.items() if way is not training.trl or importlib.util.find_spec("trl")
    ]
    print(f"\n{told}; {weights / 1e6:.0f} million weights; a bf16 matrix product runs at {fastest / 1e12:.1f} TFLOP/s\n")
    print("| training | tokens/s | share of the peak | s/step | first loss | last loss |\n|---|---|---|---|---|---|")
    for name in names:
        one = training.in_child(name, work)
        share = 6 * weights * one["speed"] / fastest
        cells = (f"{one['speed']:,.0f}", f"{share:.1%}", f"{one['wall']:.3f}", f"{one['first']:.4f}", f"{one['last']:.4f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def count_weights(model: str) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    return int(empty.num_parameters())


def run(options: argparse.Namespace) -> None:
    out = options.out / "run"
    command = ["-m", "selfalign", "run", "isara", "safe_helpful", "--model", options.model, "--out", str(out), "--quiet"]
    began = time.perf_counter()
    subprocess.run([sys.executable, *command, *options.run_options], check=True, stdout=subprocess.DEVNULL)
    print(f"\n`selfalign run isara`: {time.perf_counter() - began:.0f} s with imports\n", flush=True)
    subprocess.run([sys.executable, str(Path(__file__).with_name("stages.py")), str(out)], check=True)
    told = subprocess.run([sys.executable, "-m", "selfalign", "status", str(out), "--json"], check=True, capture_output=True)
    for each in json.loads(told.stdout)["rounds"]:
        shown = {
            name: round(each["metrics"][name]["value"], 3)
            for name in ("refusal", "over_refusal", "balance")
            if name in each["metrics"]
        }
        print(f"round {each['round']}: kept {each['kept']} of {each['candidates']}, {shown}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the whole run")
    parser.add_argument("--model", default="smollm2-135m")
    sizes = (("prompts", 512), ("length", 350), ("tokens", 64), ("batch", 128), ("runs", 3), ("steps", 0))
    for name, value in sizes:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--vllm_python", default="", help="an interpreter that has vLLM, where this one has not")
    parser.add_argument("--processor", action="store_true", help="run on the processor, to try the script")
    parser.add_argument("run_options", nargs="*", help="behind --: options of `selfalign run isara`")
    options = parser.parse_args(arguments)
    device = choose_device("cpu" if options.processor else "auto")
    if not (on_gpu(device) or options.processor):
        raise SystemExit("there is no CUDA GPU here; --processor runs this on the processor, to try the script")
    if options.out.exists():
        raise SystemExit(f"{options.out} exists already; name a new folder")
    print(facts(device), flush=True)
    fastest = peak(device)
    generate(options, device)
    if options.vllm_python or importlib.util.find_spec("vllm"):
        with_vllm(options, device)
    train(options, fastest)
    run(options)


if __name__ == "__main__":
    main()

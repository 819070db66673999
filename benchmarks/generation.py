"""Sampling speed of the engines beside transformers' own `generate` on the same padded batches.

    python benchmarks/generation.py [--engine openvino] [--prompts 64] [--length 350] [--tokens 64] [--batch 32] [--runs 3]

Every row writes exactly --tokens tokens where nothing else is said, so that all do the same work; in the lines "rows end" rows
end where the model ends them and leave the batch, as the engines really run. --engine openvino adds the OpenVINO engine
(`pip install 'selfalign[cpu]'`), --greedy how many rows get the HF engine's greedy text (ask for --dtype float32 with it). Runs
are interleaved; medians are shown. On a busy machine trust the processor's seconds, with --threads 1.

Seconds of two machines are compared by the floor: what the matrix products of the workload would take at the rate that this
processor has alone on square ones of 2,048 (attention and reading memory left out).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from selfalign.engines import HF, OpenVINO, _decode
from selfalign.types import Example, ModelRef, Request, Sampling, derive_seed

SUBJECTS = ("a kettle", "an old fence", "the night train", "a violin", "fresh bread", "a small garden", "the tide", "a map")
VERBS = ("repair", "describe", "store", "explain", "measure", "paint", "compare", "teach somebody about")


def requests(count: int, length: int, ids: Callable[[Request], Any]) -> list[Request]:
    """Few-shot prompts of `length` tokens or a little more, each of its own demonstrations."""
    made = []
    for row in range(count):
        draw = random.Random(row)
        shown: tuple[Example, ...] = ()
        request = Request(f"r{row}", (), None, derive_seed(0, row))
        while len(ids(request)) < length:
            verb, subject = draw.choice(VERBS), draw.choice(SUBJECTS)
            text = f"Begin slowly, look at {subject} from every side, and {verb} it in small steps until you are content."
            shown = (
                *shown,
                Example(f"d{row}-{len(shown)}", f"How do I {verb} {subject} in {draw.randint(2, 60)} minutes?", text),
            )
            request = Request(request.id, shown, None, request.seed)
        made.append(request)
    return made


def plain_generate(model: Any, prompts: list[list[int]], tokens: int, pad: int) -> None:
    """What a script would do: left padding, sampling from one stream."""
    import torch
    from transformers import GenerationConfig

    ids, mask = _decode.pad_left(prompts, pad, model.device)
    config = GenerationConfig(do_sample=True, top_k=0, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=pad)
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert out.shape[1] == ids.shape[1] + tokens


@contextmanager
def endless(session: Any) -> Iterator[None]:
    """No end token and no stop string: every row writes all its tokens."""
    usual = session._texts.stopper
    session._texts.stopper = lambda *_: _decode.Stopper(session._texts.tokenizer, frozenset(), ())
    try:
        yield
    finally:
        session._texts.stopper = usual


def write_all(session: Any, rows: list[Request], sampling: Sampling, ends: bool) -> list[str]:
    texts = [""] * len(rows)
    for batch in session.plan(rows):
        if ends:
            done = session.generate([rows[place] for place in batch], sampling)
        else:
            with endless(session):
                done = session.generate([rows[place] for place in batch], sampling)
            assert all(one.generated_tokens == sampling.max_tokens for one in done)
        for place, one in zip(batch, done, strict=True):
            texts[place] = one.text
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--engine", choices=("hf", "openvino"), default="hf")
    for name, value in (("prompts", 64), ("length", 350), ("tokens", 64), ("batch", 32), ("runs", 3), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--greedy", action="store_true")
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    hf, fast = HF(batch_size=options.batch, dtype=options.dtype), OpenVINO(dtype=options.dtype, threads=options.threads)
    ref = hf.check(ModelRef(options.model), (), "auto")
    sampling, greedy = Sampling(max_tokens=options.tokens), Sampling(max_tokens=options.tokens, temperature=0.0)
    with hf.open(ref, "auto") as slow, fast.open(ref, "auto") as quick:
        rows = requests(options.prompts, options.length, slow._texts.ids)
        prompts, model, pad = [slow._texts.ids(row) for row in rows], slow._model, slow._pad()

        def plain() -> None:
            for batch in slow.plan(rows):
                plain_generate(model, [list(prompts[place]) for place in batch], options.tokens, pad)

        ways: dict[str, Callable[[], Any]] = {
            "model.generate": plain,
            "HF engine": lambda: write_all(slow, rows, sampling, ends=False),
            "HF engine, rows end": lambda: write_all(slow, rows, sampling, ends=True),
        }
        if options.engine == "openvino":
            began = time.perf_counter()
            quick.generate([rows[0]], Sampling(max_tokens=1))
            print(f"OpenVINO: {time.perf_counter() - began:.1f} s to load the model, and to convert it where it was not\n")
            ways["OpenVINO engine"] = lambda: write_all(quick, rows, sampling, ends=False)
            ways["OpenVINO engine, rows end"] = lambda: write_all(quick, rows, sampling, ends=True)
        seconds = timed(ways, options.runs)
        if options.engine == "openvino" and options.greedy:
            pairs = zip(*(write_all(session, rows, greedy, ends=True) for session in (slow, quick)), strict=True)
            print(f"the same greedy text as the HF engine: {sum(a == b for a, b in pairs)} of {len(rows)} rows\n")
        speed, needed = rate(options.dtype), operations(model, prompts, options.tokens)
    mean = sum(map(len, prompts)) / len(prompts)
    print(f"{len(rows)} prompts of {mean:.0f} tokens, {options.tokens} new, {options.dtype}, HF in batches of {options.batch}")
    print(f"floor: {needed / speed:.1f} s, {needed / 1e12:.2f} T operations at {speed / 1e9:,.0f} G a second\n")
    show(seconds, options.runs)


def rate(dtype: str) -> float:
    """Floating-point operations a second in products of square matrices of 2,048, the best of 20."""
    import torch

    side = 2048
    one, other = (torch.randn(side, side).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def operations(model: Any, prompts: list[list[int]], tokens: int) -> int:
    """Of the matrix products: two for each weight and token, the output layer for new tokens alone."""
    ends = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    body = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2 and all(weight is not end for end in ends))
    written = len(prompts) * tokens
    return int(2 * (body * (sum(map(len, prompts)) + written) + ends[1].numel() * written))


def timed(ways: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor's seconds of each way in each run."""
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(runs):
        for name, way in ways.items():
            began, worked = time.perf_counter(), time.process_time()
            way()
            seconds.setdefault(name, []).append((time.perf_counter() - began, time.process_time() - worked))
    return seconds


def show(seconds: dict[str, list[tuple[float, float]]], count: int) -> None:
    print(f"| way | seconds, median of {count} | all runs | to generate | processor's seconds | to generate |")
    print("|---|---|---|---|---|---|")
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in seconds.items()}
    base = medians["model.generate"]
    for name, (wall, work) in medians.items():
        runs = ", ".join(f"{one:.1f}" for one, _ in seconds[name])
        print(f"| {name} | {wall:.1f} | {runs} | {wall / base[0]:.2f} | {work:.1f} | {work / base[1]:.2f} |")


if __name__ == "__main__":
    main()

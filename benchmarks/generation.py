"""Sampling speed of the HF engine beside transformers' own `generate` on the same padded batches.

    python benchmarks/generation.py [--prompts 64] [--length 350] [--tokens 64] [--batch 32] [--runs 3]

Every row writes exactly --tokens tokens in the first two lines, so that both do the same work; the third line lets rows end
where the model ends them and drops them from the batch, as the engine really runs. Runs are interleaved; medians are shown. On
a busy machine trust the processor's seconds, with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from selfalign.engines import _decode
from selfalign.engines.hf import HF
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    for name, value in (("prompts", 64), ("length", 350), ("tokens", 64), ("batch", 32), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    engine = HF(batch_size=options.batch, dtype=options.dtype)
    seconds: dict[str, list[tuple[float, float]]] = {}
    with engine.open(engine.check(ModelRef(options.model), (), "auto"), "auto") as session:
        rows = requests(options.prompts, options.length, session._ids)
        prompts, model, pad, size = [session._ids(row) for row in rows], session._model, session._pad(), session._vocabulary()
        endless, real = _decode.Stopper(session._tokenizer, frozenset(), ()), session._stopper(True)
        sampling = Sampling(max_tokens=options.tokens)

        def ours(stopper: _decode.Stopper) -> Callable[[list[int]], Any]:
            return lambda batch: _decode.sample(
                model, [prompts[place] for place in batch], [rows[place].seed for place in batch], sampling, stopper, size, pad
            )

        ways: dict[str, Callable[[list[int]], Any]] = {
            "model.generate": lambda batch: plain_generate(model, [list(prompts[place]) for place in batch], options.tokens, pad),
            "HF engine": ours(endless),
            "HF engine, rows end": ours(real),
        }
        for _ in range(options.runs):
            for name, way in ways.items():
                began, worked = time.perf_counter(), time.process_time()
                for batch in session.plan(rows):
                    way(list(batch))
                seconds.setdefault(name, []).append((time.perf_counter() - began, time.process_time() - worked))
    mean = sum(map(len, prompts)) / len(prompts)
    print(f"{len(rows)} prompts of {mean:.0f} tokens, {options.tokens} new, {options.dtype}, batch {options.batch}\n")
    print(f"| way | seconds, median of {options.runs} | all runs | to generate | processor's seconds | to generate |")
    print("|---|---|---|---|---|---|")
    medians = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in seconds.items()}
    base = medians["model.generate"]
    for name, (wall, work) in medians.items():
        runs = ", ".join(f"{one:.1f}" for one, _ in seconds[name])
        print(f"| {name} | {wall:.1f} | {runs} | {wall / base[0]:.2f} | {work:.1f} | {work / base[1]:.2f} |")


if __name__ == "__main__":
    main()

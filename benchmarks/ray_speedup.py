"""Two workers on two cores against one process with two threads: generation with a real model, as a ratio.

    python benchmarks/ray_speedup.py [--model smollm2-135m] [--rows 64] [--batch 16] [--repeats 3]

Needs two cores that nobody else uses: times are wall-clock seconds of generation alone, after a first batch that loads the
weights. Which way goes first changes from repeat to repeat. Both workers get as many batches where their number is even; the
driver and Ray's own processes run on the same two cores, as they do for a user.
The texts of both are compared too, since one thread and two may round differently.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

WORK = """
import json, os, sys, time
import torch
from selfalign.engines import HF, Ray
from selfalign.types import ModelRef, Request, Sampling, derive_seed
way, model, rows, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
inner = HF(dtype="float32", device="cpu", batch_size=batch)
engine = Ray(inner=inner, workers=2) if way == "ray" else inner
asked = [Request(f"r{i}", prompt=f"Tell me {i + 2} things about the number {i}.", seed=derive_seed(0, i)) for i in range(rows)]
sampling = Sampling(max_tokens=64, temperature=0.8)
with engine.open(engine.check(ModelRef(model), (), "auto"), "auto") as session:
    plan = session.plan(asked)
    calls = [([asked[place] for place in places], sampling) for places in plan]
    spread = getattr(session, "spread", None)
    warm = [([asked[0]], Sampling(max_tokens=2))] * 2
    session.generate(*warm[0])
    end = time.monotonic() + 300
    while spread and session._crew._away:  # one of the two has started, and the other is still about to
        if time.monotonic() > end:
            sys.exit("the second worker has not started in five minutes: are there two cores?")
        time.sleep(0.5)
        session.generate(*warm[0])
    for _ in range(3):  # one call for each: both load the weights
        list(spread("generate", warm)) if spread else session.generate(*warm[0])
    began, texts = time.perf_counter(), {}
    for place, found in spread("generate", calls) if spread else ((i, session.generate(*call)) for i, call in enumerate(calls)):
        texts.update((row, one.text) for row, one in zip(plan[place], found, strict=True))
    wall = time.perf_counter() - began
print(json.dumps({"wall": wall, "batches": len(calls), "texts": [texts[row] for row in range(rows)]}))
"""


def measured(way: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-c", WORK, way, options.model, str(options.rows), str(options.batch)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    for name, default in (("rows", 64), ("batch", 16), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    began, ratios = time.perf_counter(), []
    for number in range(options.repeats):
        order = [("alone", 2), ("ray", 1)][:: -1 if number % 2 else 1]
        found = {way: measured(way, threads, options) for way, threads in order}
        one, two = found["alone"], found["ray"]
        ratios.append(one["wall"] / two["wall"])
        same = sum(a == b for a, b in zip(one["texts"], two["texts"], strict=True))
        print(
            f"repeat {number + 1}: one process of two threads {one['wall']:.1f} s, two workers of one {two['wall']:.1f} s,"
            f" ratio {ratios[-1]:.2f}; {two['batches']} batches; {same} of {options.rows} texts are the same",
            flush=True,
        )
    print(f"two workers are {statistics.median(ratios):.2f} times as fast (median); {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()

"""How a round grows: whole rounds without a model by candidates, and the parts that look at the pool by its rows.

    python benchmarks/loop.py
    python benchmarks/loop.py --recipes isara --candidates 64,1024
    python benchmarks/loop.py --candidates "" --pool 1000,1000000

Two rounds through `align` for each recipe and number of candidates, each run in a process of its own: the scripted engine, the
hashed encoder, no training. The texts are drawn from a vocabulary of 8,000 words with Zipf frequencies, so that nearly all pass
and the pool grows as fast as it can. Then novelty, near-duplicates, retrieval and the drawing of demonstrations alone, for
--batch candidates against pools of random texts and vectors. All seconds are the processor's, of one thread; peak memory is the
kernel's figure for the process; exponents are log-log slopes from each size to the next larger one (1 is linear).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import selfalign
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.engines.scripted import ScriptedSession
from selfalign.filters import NearDuplicates, Novelty
from selfalign.loop.align import align
from selfalign.loop.vectors import remember
from selfalign.proposers import FewShot
from selfalign.protocols import Context, Encode, Session
from selfalign.recipe import Recipe
from selfalign.recipes import isara, isheep, self_instruct
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.retrievers import Knn, Uniform
from selfalign.seeds.read import read_seeds
from selfalign.trainers import NullTrainer
from selfalign.types import Completion, Example, FloatArray, Format, Likelihood, ModelRef, Pool, Request, Sampling, derive_seed

WORDS = [f"w{rank}" for rank in range(8000)]
WEIGHTS = list(accumulate(1 / (rank + 3) for rank in range(8000)))
DIMENSION = 384
"""Of the vectors in the second part; the bundled sentence encoder's."""
SPENT = {"engine": 0.0, "encoder": 0.0}
booked = False


def text(draw: random.Random, words: int) -> str:
    """Around `words` words (half to one and a half times as many), a sentence."""
    return " ".join(draw.choices(WORDS, cum_weights=WEIGHTS, k=draw.randint(words // 2, words * 3 // 2))).capitalize() + "."


def reply(model: ModelRef, request: Request) -> str:
    """A prompt, an answer, or the rest of a list in the form that its request begins."""
    draw = random.Random(derive_seed(request.seed, model.hash, request.prompt or ""))
    found = re.search(r"(?:^|\n)(\d+)\.( Instruction:)?$", request.text or "")
    if found is None:
        return text(draw, 40 if request.prompt else 18)
    first, form = int(found[1]), found[2] or ""
    items = []
    for number in range(first, first + 10):
        given = f"\n{number}. Input:\n<noinput>\n###" if form else ""
        items.append(f"{number}.{form} {text(draw, 18)}{given}")
    return "\n".join(items).removeprefix(f"{first}.{form}")


@contextmanager
def spent(what: str) -> Iterator[None]:
    """Books the processor's seconds of the block, unless a block around it does."""
    global booked
    if booked:
        yield
        return
    booked, began = True, time.process_time()
    yield
    booked = False
    SPENT[what] += time.process_time() - began


class TimedSession(ScriptedSession):
    def fit(self, request: Request, max_tokens: int) -> Request | None:
        with spent("engine"):
            return super().fit(request, max_tokens)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        with spent("engine"):
            return super().generate(requests, sampling)

    def likelihood(self, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        with spent("engine"):
            return super().likelihood(examples, shown)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        with spent("engine"):
            return super().embed(texts)

    def render(self, request: Request) -> str:
        with spent("engine"):
            return super().render(request)


@dataclass(frozen=True)
class TimedEngine(Scripted):
    @contextmanager
    def open(self, model: ModelRef, format: Format) -> Iterator[ScriptedSession]:
        yield TimedSession(self, model)


@dataclass(frozen=True)
class TimedEncoder(Hashed):
    @contextmanager
    def open(self, session: Session) -> Iterator[Encode]:
        def encode(texts: Sequence[str]) -> FloatArray:
            with spent("encoder"):
                return self._encode(texts)

        yield encode


def recipe(name: str, count: int) -> Recipe:
    parts: dict[str, Any] = {"engine": TimedEngine(replies=reply), "encoder": TimedEncoder(), "trainer": NullTrainer()}
    parts |= {"per_round": count, "min_yield": 0}
    if name == "isheep":
        return replace(isheep(select="density_perplexity"), **parts)
    return replace(isara() if name == "isara" else self_instruct(), **parts)


def one_run(name: str, count: int) -> dict[str, Any]:
    """Two rounds; seconds of the process outside engine and encoder, in all and by stage, and what was kept."""

    def clock() -> float:
        return time.process_time() - sum(SPENT.values())

    # The loop's own clock: the seconds in `status` become the processor's, outside engine and encoder.
    time.monotonic = clock
    bundled = Path(selfalign.__file__).parent / "data" / "safe_helpful"
    seeds, held_out = (read_seeds(bundled / f"{part}.jsonl") for part in ("seeds", "held_out"))
    with tempfile.TemporaryDirectory() as folder:
        began = clock()
        align(recipe(name, count), "scripted", seeds, Path(folder) / "run", held_out=held_out)
        outside = clock() - began
        with Store.read(Path(folder) / "run") as store:
            rounds = status(store)["rounds"]
    stages: dict[str, float] = {}
    for row in rounds:
        for stage, seconds in row["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return {**SPENT, "outside": outside, "stages": stages, "kept": [row["kept"] for row in rounds[1:]], "peak": peak()}


def peak() -> float:
    """MiB; the kernel's figure for this program alone (ru_maxrss starts from the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def parts_alone(rows: int, batch: int) -> dict[str, Any]:
    """Seconds of each part for `batch` candidates against a pool of 64 seeds and `rows` - 64 generated examples."""
    draw, random_rows = random.Random(0), np.random.default_rng(0)

    def encode(texts: Sequence[str]) -> FloatArray:
        found = random_rows.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        return [(request, Completion("", "stop")) for request in requests]

    def example(round: int, slot: int) -> Example:
        return Example(f"r{round:02d}-{slot:07d}", text(draw, 18), f"Answer {slot}.", round, slot, "ab"[slot % 2])

    parts = tuple(example(0, i) for i in range(64)), tuple(example(1, i) for i in range(rows - 64))
    batches = [example(2, slot) for slot in range(batch)]
    unused: Any = None
    journal: Any = SimpleNamespace(generate=generate)
    context = Context(2, 0, Pool(parts), remember(encode), journal, unused)
    before, seconds = peak(), {}
    work: dict[str, Callable[[], object]] = {
        "vectors": lambda: context.encode([each.prompt for each in context.pool.examples]),
        "draw demonstrations": lambda: FewShot(aim="balanced").propose(context, batch),
        "novelty": lambda: Novelty().apply(context, batches),
        "near duplicates": lambda: NearDuplicates(max_similarity=0.92).apply(context, batches),
        "nearest neighbours": lambda: Knn(by_category=True).retrieve(context, batches),
        "uniform retrieval": lambda: Uniform().retrieve(context, batches),
    }
    for name, run in work.items():
        began = time.process_time()
        run()
        seconds[name] = time.process_time() - began
    return {"seconds": seconds, "pool": before, "peak": peak()}


def in_child(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def exponents(sizes: Sequence[int], values: Sequence[float]) -> str:
    """Log-log slopes between neighbours."""
    pairs = pairwise(zip(sizes, values, strict=True))
    return ", ".join(f"{math.log(v / max(u, 1e-9)) / math.log(b / a):.2f}" for (a, u), (b, v) in pairs)


def show_runs(name: str, sizes: Sequence[int]) -> None:
    found = []
    stages = ("filter", "guards", "evaluate")
    head = ("N", "kept", "outside, s", "ms per candidate", *stages, "rest", "encoder", "engine", "peak MiB")
    print(f"\n{name}, 2 rounds\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for size in sizes:
        one = in_child(name, size)
        found.append(one)
        told = [one["stages"].get(stage, 0.0) for stage in stages]
        figures = [one["outside"], *told, one["outside"] - sum(told), one["encoder"], one["engine"]]
        shown = [f"{value:.2f}" for value in figures]
        shown.insert(1, f"{500 * one['outside'] / size:.2f}")
        print(f"| {size:,} | {' + '.join(map(str, one['kept']))} | {' | '.join(shown)} | {one['peak']:,.0f} |", flush=True)
    print(f"exponents of the seconds outside: {exponents(sizes, [one['outside'] for one in found])}")


def show_pools(sizes: Sequence[int], batch: int) -> None:
    found = [in_child("pool", size, batch) for size in sizes]
    print(f"\n{batch} candidates\n\n| part | {' | '.join(f'{size:,} rows' for size in sizes)} | exponents |")
    print("|" + "---|" * (len(sizes) + 2))
    for name in found[0]["seconds"]:
        values = [one["seconds"][name] for one in found]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} | {exponents(sizes, values)} |")
    for name, key in (("the pool in memory, MiB", "pool"), ("peak, MiB", "peak")):
        print(f"| {name} | {' | '.join(f'{one[key]:,.0f}' for one in found)} | |")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="isara,isheep,self_instruct")
    parser.add_argument("--candidates", type=numbers, default="64,256,1024,4096,10000", help="N of a run, with commas")
    parser.add_argument("--pool", type=numbers, default="1000,10000,100000", help="rows of a pool, with commas")
    parser.add_argument("--batch", type=int, default=256, help="candidates against a pool")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *sizes = options.child
        measure = parts_alone if name == "pool" else lambda count: one_run(name, count)
        print(json.dumps(measure(*map(int, sizes))))
        return
    for name in options.recipes.split(",") if options.candidates else ():
        show_runs(name, options.candidates)
    if options.pool:
        show_pools(options.pool, options.batch)


if __name__ == "__main__":
    main()

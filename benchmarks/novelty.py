"""ROUGE-L novelty: how long it takes, beside Google's rouge-score on the same work.

    python benchmarks/novelty.py
    python benchmarks/novelty.py --words 60
    python benchmarks/novelty.py --growing 10000
    python benchmarks/novelty.py --indexed 10000 100000
    python benchmarks/novelty.py --near 20000 100000 [--whole]
    python benchmarks/novelty.py --texts

Texts are drawn from a vocabulary of 8,000 words with Zipf frequencies; lengths are uniform in ±50 % of --words. rouge-score runs
on the first --subset candidates against all texts and is scaled to all of them; its scores there must equal ours.
--growing N filters N candidates one after the other against a pool that every candidate which passes joins. --indexed N ... does
nothing else than that from an empty pool, by the index that large pools have; its seconds are the processor's.
--near N ... does the same for near-duplicates by cosine (0.95) and says what memory they took; --whole multiplies whole vectors.
Its vectors have 384 numbers that are as unequal as those of the bundled sentence encoder over the bundled prompts, which --texts
measures, with what share of their pairs is left to multiply whole.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import numpy as np

from selfalign.filters import _near
from selfalign.filters._index import nearest_above
from selfalign.text import rouge_l_growing, rouge_l_max


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=512)
    parser.add_argument("--pool", type=int, default=5000)
    parser.add_argument("--words", type=int, default=18, help="mean words in a text; the bundled seeds' prompts have 16")
    parser.add_argument("--subset", type=int, default=4, help="candidates that rouge-score is run on")
    parser.add_argument("--growing", type=int, default=0, help="also filter this many candidates with a growing pool")
    parser.add_argument("--indexed", type=int, nargs="+", default=[], help="filter so many by the index, and do nothing else")
    parser.add_argument("--near", type=int, nargs="+", default=[], help="find so many vectors' near-duplicates, and no more")
    parser.add_argument("--whole", action="store_true", help="with --near: all numbers of all pairs")
    parser.add_argument("--texts", action="store_true", help="look at the bundled prompts' vectors, and do nothing else")
    options = parser.parse_args()
    if options.texts:
        look_at_prompts()
    if options.near:
        near(options.near, options.whole)
    if options.texts or options.near:
        return
    source = random.Random(0)
    for count in options.indexed:
        batch = texts(source, count, options.words)
        worked = time.process_time()
        dropped = sum(found.position >= 0 for found in nearest_above(batch, (), 0.7, unicode=True))
        print(f"{count} texts of ~{options.words} words, {dropped} dropped: {time.process_time() - worked:.1f} s", flush=True)
    if options.indexed:
        return
    pool = texts(source, options.pool, options.words)
    candidates = texts(source, options.candidates, options.words)

    began = time.perf_counter()
    ours = rouge_l_max(candidates, pool)
    seconds = time.perf_counter() - began
    theirs, gap = measure_rouge_score(candidates[: options.subset], pool, [score for score, _ in ours])
    scaled = theirs * len(candidates) / options.subset
    work = f"{len(candidates)} candidates x {len(pool)} texts of ~{options.words} words"
    print(f"{work}: {seconds:.2f} s")
    print(f"rouge-score, scaled from {options.subset} candidates ({theirs:.2f} s): {scaled:.0f} s", end=", ")
    print(f"{scaled / seconds:.0f} times as long")
    print(f"largest difference of a score: {gap:.1e}")
    if options.growing:
        batch = texts(source, options.growing, options.words)
        began, worked = time.perf_counter(), time.process_time()
        passed = sum(score <= 0.7 for score, _ in rouge_l_growing(batch, pool, 0.7, unicode=True))
        print(f"growing from {len(pool)} to {len(pool) + passed} texts by {options.growing} candidates:", end=" ")
        print(f"{time.perf_counter() - began:.1f} s, {time.process_time() - worked:.1f} of the processor")


SLOPE = 0.68
"""Of the vectors' spread by rank: that of all-MiniLM-L6-v2 over the bundled prompts (`--texts`)."""


def near(counts: list[int], whole: bool) -> None:
    import tracemalloc

    if whole:
        _near.SHORTENED = 10**12
    for count in counts:
        draw = np.random.default_rng(0)
        rows = draw.standard_normal((count, 384), dtype=np.float32) * (1 / np.arange(1, 385) ** SLOPE).astype(np.float32)
        rows[1::50] = rows[::50] + 0.1 * rows[1::50]  # one in fifty is near another
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        tracemalloc.start()
        worked = time.process_time()
        dropped = sum(place >= 0 for _, place in _near.nearest_above(rows, rows[:0], 0.95))
        seconds, most = time.process_time() - worked, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{count} vectors ({rows.nbytes / 2**20:.0f} MiB), {dropped} dropped: {seconds:.1f} s of the processor,", end=" ")
        print(f"{most / 2**20:.0f} MiB besides", flush=True)


def look_at_prompts() -> None:
    from pathlib import Path

    import selfalign
    from selfalign.encoders import SentenceEncoder
    from selfalign.seeds.read import read_seeds

    data = Path(selfalign.__file__).parent / "data"
    unused: Any = None
    files = [data / name / f"{part}.jsonl" for name in ("safe_helpful", "in_scope") for part in ("seeds", "held_out")]
    prompts = [row.prompt for file in files for row in read_seeds(file, response_required=False)]
    with SentenceEncoder().open(unused) as encode:
        rows = encode(prompts)
    sizes = np.linalg.svd(rows, compute_uv=False)[1:257]
    slope = -np.polyfit(np.log(np.arange(2, 258)), np.log(sizes), 1)[0]
    print(f"{len(prompts)} prompts; their spread falls with rank to the power {slope:.2f}")
    _near.SHORTENED = 1
    for bound in (0.9, 0.95):
        axes = _near._directions(rows, rows[:0], bound)
        short = _near._shortened(rows, axes)
        left = ((short @ short.T > bound - _near._SLACK).sum() - len(rows)) / len(rows) / (len(rows) - 1)
        print(f"above {bound}: {short.shape[1] - 1} directions, {left:.2%} of the pairs left", flush=True)


def texts(source: random.Random, count: int, words: int) -> list[str]:
    vocabulary = [f"w{rank}" for rank in range(8000)]
    weights = [1 / (rank + 3) for rank in range(8000)]
    lengths = (source.randint(words // 2, words * 3 // 2) for _ in range(count))
    return [" ".join(source.choices(vocabulary, weights, k=length)) for length in lengths]


def measure_rouge_score(candidates: list[str], pool: list[str], ours: list[float]) -> tuple[float, float]:
    """Seconds it took and the largest difference of a maximum from ours."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    began = time.perf_counter()
    best = [max(scorer.score(text, other)["rougeL"].fmeasure for other in pool) for text in candidates]
    return time.perf_counter() - began, max(abs(a - b) for a, b in zip(best, ours, strict=False))


if __name__ == "__main__":
    main()

"""How much of a round's prompts is beginnings in common, under each order, and what computing those once saves.

    python benchmarks/prefix.py [--model smollm2-135m] [--recipes isara,isara_paper,isheep,rest] [--candidates 128]
    python benchmarks/prefix.py --run [--recipes isara] [--runs 3] [--threads 1] [--dtype bfloat16]

The prompts are those of a recipe's first round on the bundled seeds: what its proposer asks for, and its answers, for which the
bundled held-out prompts stand in place of generated ones (of the categories aimed at; the hashed encoder finds the nearest).
They are rendered for the model; no weights load. `order` is that of `--order`. "Once" is the share of all prompt tokens that
need not be computed again: at best (any tokens in common, everything kept), and as the OpenVINO engine does it, in whole blocks
within its sorted batches; "as they come" is the same without sorting into batches.

--run generates with the recipe's lengths and temperatures on OpenVINO (`pip install 'selfalign[cpu]'`), without the prefix cache
and with it under each order; every run begins with an empty cache, runs are interleaved, medians are shown. On a busy machine
trust the processor's seconds, with --threads 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

from selfalign.cli.load import load_recipe, read_examples
from selfalign.encoders import Hashed
from selfalign.engines import OpenVINO
from selfalign.engines._texts import Texts
from selfalign.engines.openvino import _BLOCK
from selfalign.loop.preflight import split_seeds
from selfalign.loop.vectors import remember
from selfalign.models.names import resolve_ref
from selfalign.models.rendering import same_until
from selfalign.protocols import Context
from selfalign.recipe import Recipe
from selfalign.types import Completion, Example, ModelRef, Pool, Request, Sampling, derive_seed, in_pool_order

ORDERS = ("chosen", "shared")
Ids = Callable[[Request], tuple[int, ...]]


@dataclass(frozen=True)
class Stage:
    """The requests of one stage, their demonstrations as the recipe chooses them."""

    name: str
    requests: tuple[Request, ...]
    sampling: Sampling

    def ordered(self, order: str) -> list[Request]:
        if order == "chosen":
            return list(self.requests)
        return [replace(each, demonstrations=in_pool_order(each.demonstrations)) for each in self.requests]


def stages(recipe: Recipe, candidates: int) -> list[Stage]:
    """What the first round of a recipe asks its model for."""
    seeds, held_out = read_examples("safe_helpful", None)
    found: list[Stage] = []

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        found.append(Stage(stage, tuple(requests), sampling))
        return [(request, Completion("", "stop")) for request in requests]

    nobody = cast(Any, None)
    with Hashed().open(nobody) as encode:
        context = Context(
            round=1,
            seed=recipe.seed,
            pool=Pool((split_seeds(seeds, recipe.validation_share, recipe.seed)[0],)),
            encode=remember(encode),
            journal=cast(Any, SimpleNamespace(generate=generate)),
            open_model=nobody,
        )
        drafts = recipe.proposer.propose(context, candidates)
        if found:  # else the prompts are the seeds' own
            aims = {draft.category for draft in drafts}
            asked = [each for each in held_out if "" in aims or each.category in aims][:candidates]
            drafts = [replace(each, response="", slot=slot) for slot, each in enumerate(asked)]
        chosen = recipe.retriever.retrieve(context, drafts)
    answers = (_answer(recipe, draft, shown) for draft, shown in zip(drafts, chosen, strict=True))
    return [*found, Stage("respond", tuple(answers), recipe.sampling)]


def _answer(recipe: Recipe, draft: Example, shown: Sequence[tuple[Example, float | None]]) -> Request:
    seed = derive_seed(recipe.seed, 1, "respond", draft.slot)
    return Request(draft.id, tuple(example for example, _ in shown), draft.prompt, seed, history=draft.history)


def once(rows: Sequence[tuple[int, ...]], block: int = 1) -> int:
    """Tokens, in whole blocks, that some row has already begun with; what sorted neighbours have in common adds up to that."""
    return sum(same_until(one, other) // block * block for one, other in pairwise(sorted(rows)))


def count(name: str, stage: Stage, ids: Ids, batch: int) -> None:
    for order in ORDERS:
        rows = [ids(request) for request in stage.ordered(order)]
        total = sum(map(len, rows))
        system = min(same_until(rows[0], row) for row in rows) / (total / len(rows))
        planned, came = (
            sum(once(each[at : at + batch], _BLOCK) for at in range(0, len(each), batch)) / total for each in (sorted(rows), rows)
        )
        figures = f"{system:.1%} | {order} | {once(rows) / total:.1%} | {planned:.1%} | {came:.1%}"
        print(f"| {name}: {stage.name} | {len(rows)} | {total / len(rows):.0f} | {figures} |")


def measure(name: str, stage: Stage, ref: ModelRef, format: Any, options: argparse.Namespace) -> None:
    """One table: seconds without and with the cache."""
    asked = stage.sampling
    sampling = Sampling(asked.max_tokens, asked.temperature, asked.top_p, asked.top_k, asked.stop)
    plain = OpenVINO(batch_size=options.batch, dtype=options.dtype, threads=options.threads)
    ways = {"without the cache": (plain, "chosen")}
    ways |= {f"with the cache, {order}": (replace(plain, prefix_cache=True), order) for order in ORDERS}
    seconds: dict[str, list[tuple[float, float]]] = {}
    tokens: dict[str, int] = {}
    for _ in range(options.runs):
        for way, (engine, order) in ways.items():
            rows = stage.ordered(order)
            with engine.open(ref, format) as session:
                session.generate([Request("first", text="Hello")], Sampling(max_tokens=1))  # loads and converts
                began, worked = time.perf_counter(), time.process_time()
                made = [one for at in session.plan(rows) for one in session.generate([rows[i] for i in at], sampling)]
                seconds.setdefault(way, []).append((time.perf_counter() - began, time.process_time() - worked))
            tokens[way] = sum(one.generated_tokens for one in made)
    print(f"\n{name}: {stage.name}, {len(stage.requests)} prompts, at most {sampling.max_tokens} new tokens, {options.dtype}\n")
    print(
        f"| way | seconds, median of {options.runs} | processor's seconds | to without | tokens written |\n|---|---|---|---|---|"
    )
    medians = {way: [statistics.median(column) for column in zip(*runs, strict=True)] for way, runs in seconds.items()}
    base = medians["without the cache"][1]
    for way, (wall, work) in medians.items():
        print(f"| {way} | {wall:.1f} | {work:.1f} | {work / base:.2f} | {tokens[way]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--recipes", default="isara,isara_paper,isheep,rest")
    for name, value in (("candidates", 128), ("batch", OpenVINO().batch_size), ("runs", 3), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--run", action="store_true", help="measure seconds, too")
    options = parser.parse_args()
    ref = resolve_ref(ModelRef(options.model))
    made = [(name, load_recipe(name)()) for name in options.recipes.split(",")]
    asked = [(name, recipe.format, stage) for name, recipe in made for stage in stages(recipe, options.candidates)]
    print(f"batches of {options.batch} rows, blocks of {_BLOCK} tokens\n")
    print(
        "| recipe: stage | prompts | tokens each | all begin with | order | once, at best | once, by the engine | as they come |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, format, stage in asked:
        count(name, stage, Texts(ref, format).ids, options.batch)
    if options.run:
        for name, format, stage in asked:
            measure(name, stage, ref, format, options)


if __name__ == "__main__":
    main()

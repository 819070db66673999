"""I-SHEEP's runs: one study for each model, whose arms all tables share, and the models of their iterations measured afterwards.

Training and measuring are apart, so that a benchmark can be added without training again: a model of an iteration is measured as
a run of no rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from papers.kit import Kit
from selfalign.cli.eval_sides import find_side
from selfalign.evaluators import HeldOut
from selfalign.protocols import Evaluator
from selfalign.recipe import Recipe
from selfalign.recipes import isheep_paper
from selfalign.record.store import Store
from selfalign.scorers import Judge
from selfalign.types import Example, Metric, Sampling

MODELS: Mapping[str, str] = {
    "72b": "Qwen/Qwen1.5-72B",
    "32b": "Qwen/Qwen1.5-32B",
    "14b": "Qwen/Qwen1.5-14B",
    "7b": "Qwen/Qwen1.5-7B",
    "4b": "Qwen/Qwen1.5-4B",
    "1.8b": "Qwen/Qwen1.5-1.8B",
}
LARGEST: Mapping[str, str] = {"72b": MODELS["72b"]}
"""The one that the paper's ablations are about."""
ITERATIONS: Mapping[str, int] = {"72b": 6, "32b": 4}
"""Of a model that the paper takes further than three."""
NEEDS = ("seed_tasks.jsonl",)
MAIN = "combined"
"""The arm with the published values."""
ANSWERS = Sampling(max_tokens=1024, temperature=0.0)
"""How a model of an iteration answers, where a benchmark does not say. How theirs did is not known to us."""
_ASKED = tuple(Example(f"short-{at}", text, "") for at, text in enumerate(("Name three colours.", "What is bread made of?")))
"""A study has something to measure in every iteration; the benchmarks come afterwards."""
WITHOUT_WEIGHTS = 2.8
"""Invented scores lie near 5.5 and not near 9: thresholds are as much lower there."""


def recipe(kit: Kit, *, above: float = 8.0, standard: str = "combined", **options: Any) -> Recipe:
    """The published recipe with some of its options; a judge without weights writes no numbers, so its likelihoods are read."""
    method = "expected" if kit.scripted else "parsed"
    judge = Judge(model="base", standard=standard, method=method)  # type: ignore[arg-type]
    if options.get("select", "both") in ("both", "quality", "following"):
        options["score_above"] = above - WITHOUT_WEIGHTS if kit.scripted else above
    elif options["select"] == "perplexity" and kit.scripted:
        options["perplexity_below"] = 15.0
    elif options["select"] in ("density", "density_perplexity"):
        options["clusters"] = kit.scale.rows(3000)
    return isheep_paper(judge=judge, **options)


@dataclass(frozen=True)
class Iteration:
    """The model of one iteration of one run."""

    run: Path
    round: int
    """0: the base model."""
    model: str
    """What `align` takes."""


def study(kit: Kit, model: str, arms: Mapping[str, Recipe]) -> dict[str, list[list[Iteration]]]:
    """By arm, for each random seed the models of its iterations, the base model first; `model` by its short name.

    A run ends early where an iteration keeps nothing, and then has fewer.
    """
    name = f"isheep/{model}"
    longer = {arm: each if each.rounds == 1 else replace(each, rounds=ITERATIONS.get(model, 3)) for arm, each in arms.items()}
    found = kit.study(name, kit.models[model], longer, Path(kit.source("seed_tasks.jsonl")), _ASKED, [HeldOut()])
    return {
        arm: [
            [Iteration(folder, round, find_side(str(folder), round).model) for round in range(run.best_round + 1)]
            for folder, run in zip(kit.folders(name, runs), runs, strict=True)
        ]
        for arm, runs in found.items()
    }


def main_run(kit: Kit, model: str) -> list[list[Iteration]]:
    """The published recipe's."""
    return study(kit, model, {MAIN: recipe(kit)})[MAIN]


def by_iteration(model: str, runs: Sequence[Sequence[Iteration]], *, base: bool) -> Iterator[tuple[str, list[Iteration]]]:
    """The row of each iteration, with its models of all random seeds that came so far."""
    for round in range(0 if base else 1, max(map(len, runs))):
        yield f"{model}, {f'iteration {round}' if round else 'base'}", [run[round] for run in runs if round < len(run)]


def measured(
    kit: Kit, what: str, iterations: Sequence[Iteration], evaluators: Sequence[Evaluator], asked: Sequence[Example] | Path = ()
) -> list[tuple[Path, dict[str, Metric]]]:
    """The folder and all metrics of each model, from a run of no rounds that is made once."""
    found = []
    for one in iterations:
        of = "/".join((*one.run.relative_to(kit.out / "runs").parts, f"iteration-{one.round}"))
        name = f"isheep-{what}/{of}" if one.round else f"isheep-{what}/{one.run.relative_to(kit.out / 'runs').parts[1]}/base"
        plain = replace(recipe(kit), rounds=0, scorers=(), filters=(), eval_sampling=ANSWERS)
        runs = kit.study(name, one.model, {"model": plain}, (), asked, evaluators)["model"]
        (folder,) = kit.folders(name, runs[:1])
        with Store.read(folder) as store:
            metrics = [replace(each, outcomes=store.outcomes(0, each.name)) for each in store.metrics(0)]
        found.append((folder, {each.name: each for each in metrics}))
    return found

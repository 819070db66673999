"""Plain fine-tuning on the seeds at the cost of a finished run: as many optimiser steps, the same held-out figures.

    python benchmarks/sft_baseline.py runs/demo --held_out src/selfalign/data/safe_helpful/held_out.jsonl

Trains the run's base model on all its seeds (those the run held out for validation too) with the run's trainer for as many
steps as all rounds up to the best one took, and prints one line of a table.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from selfalign.evaluators.held_out import HeldOut
from selfalign.evaluators.refusal import Refusal
from selfalign.loop import Quiet
from selfalign.pool import Pool
from selfalign.protocols import TrainJob
from selfalign.recipes.isara import isara
from selfalign.seeds import read_seeds
from selfalign.steps import make_context
from selfalign.store import Store
from selfalign.trainers.sft import SFT
from selfalign.types import derive_seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--held_out", required=True)
    parser.add_argument("--seed", type=int, help="another random seed than the run's")
    options = parser.parse_args()
    with Store.read(options.run) as store:
        seeds, base, best = (*store.seeds(), *store.validation_seeds()), store.model(0), store.state()["best_round"]
        steps = sum(store.training(round)["steps"] for round in range(1, best + 1))
        identity = store.identity()
    known = {name: value for name, value in identity["trainer"].items() if name != "part"}
    recipe = isara(
        seed=identity["seed"] if options.seed is None else options.seed, trainer=replace(SFT(**known), max_steps=steps)
    )
    held_out = read_seeds(options.held_out)
    with tempfile.TemporaryDirectory() as folder, Store.open(folder, {}) as store:
        job = TrainJob(
            round=1,
            start=base,
            seeds=seeds,
            generated=(),
            seed_weight=None,
            format=recipe.format,
            seed=derive_seed(recipe.seed, 1, "train"),
            learning_rate_scale=1.0,
            steps=0,
            work=Path(folder) / "training",
            out=Path(folder) / "model",
        )
        result = recipe.trainer.train(job, Quiet())
        with recipe.engine.open(result.model, recipe.format) as session, recipe.encoder.open(session) as encode:
            context = make_context(recipe, store, 1, Pool((seeds,)), session, encode, Quiet())
            metrics = [metric for part in (Refusal(), HeldOut()) for metric in part.evaluate(context, held_out)]
    print(f"sft, {len(seeds)} seeds, {result.steps} steps, {result.tokens} tokens, random seed {recipe.seed}")
    print("| " + " | ".join(metric.name for metric in metrics) + " |\n|" + "---|" * len(metrics))
    print("| " + " | ".join(f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]" for metric in metrics) + " |")


if __name__ == "__main__":
    main()

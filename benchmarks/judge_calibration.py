"""Can a model judge? Calibration of it as a judge on a seed file, and of perplexity beside it.

    python benchmarks/judge_calibration.py --out runs/calibration [--seeds FILE] [--model smollm2-135m] [--most 64]
        [--aspects quality following] [--standard combined] [--method expected] [--prompt_form raw]

Without --seeds the bundled ones are taken. Each judge scores the seeds, five spoiled versions of each and one appeal to the judge
of each; see `selfalign.proof.calibration`. The scores are journaled in --out, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from importlib.resources import files

from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.loop.align import Quiet, hash_examples
from selfalign.loop.context import Setup, opened
from selfalign.loop.vectors import RunVectors
from selfalign.proof.calibration import Calibration, calibrate
from selfalign.recipes import isara
from selfalign.record.store import Store
from selfalign.scorers import Judge, Perplexity
from selfalign.seeds.read import read_seeds
from selfalign.types import ModelRef, Pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", default=str(files("selfalign") / "data" / "safe_helpful" / "seeds.jsonl"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--aspects", nargs="+", default=["quality", "following"])
    parser.add_argument("--standard", default="combined")
    parser.add_argument("--method", default="expected")
    parser.add_argument("--prompt_form", default="raw")
    options = parser.parse_args()
    seeds = tuple(read_seeds(options.seeds))
    recipe = replace(isara(), engine=HF(batch_size=16), encoder=Hashed())
    model = recipe.engine.check(ModelRef(options.model), seeds, recipe.format)
    identity = {"calibration": model.hash, "seeds": hash_examples(seeds), "most": options.most}
    with Store.open(options.out, identity) as store:
        store.add_model(0, model)
        run = Setup(recipe, store, model, seeds, (), (), (), RunVectors(recipe.encoder, ()), Quiet())
        with opened(run, model, Pool((seeds,))) as at:
            context = at(0)
            for aspect in options.aspects:
                judge = Judge(aspect, options.standard, method=options.method, prompt_form=options.prompt_form)
                sampled = options.method == "parsed"
                began = time.monotonic()
                show(calibrate(judge, context, seeds, scale=(1.0, 10.0), repeat=sampled, most=options.most), began)
            began = time.monotonic()
            reader = Perplexity(model="current")
            show(calibrate(reader, context, seeds, higher_is_better=False, most=options.most, appeals=0), began)


def show(found: Calibration, began: float) -> None:
    print(f"{found.name} is {found.verdict} ({time.monotonic() - began:.0f} s): {found.text}", flush=True)
    for kind, each in found.auc_by_kind:
        print(f"  {kind:10} {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]", flush=True)


if __name__ == "__main__":
    main()

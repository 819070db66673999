"""How many pairs pass I-SHEEP's judge at which threshold: a model's own answers to given tasks, scored by the same model.

    selfalign run benchmarks/isheep_thresholds.py:answers tasks.jsonl --model smollm2-135m --out runs/thresholds
    python benchmarks/isheep_thresholds.py runs/thresholds

The tasks are given and not listed by the model, for a model of this size lists few (RESULTS.md): what is measured is the judge.
Nothing is trained (`min_yield` 1 ends the run before that); the run's folder keeps every pair with both scores.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from selfalign.proof.stats import wilson
from selfalign.proposers import Repeated
from selfalign.recipe import Recipe
from selfalign.recipes import isheep_paper
from selfalign.scorers import Judge
from selfalign.types import Sampling

BOTH = ("judge_quality", "judge_following")


def answers(*, method: str = "parsed", standard: str = "combined", max_tokens: int = 128) -> Recipe:
    """The published recipe with given tasks, its rules on tasks left out and its threshold at 0.

    Args:
        method: parsed (the authors') or expected.
        standard: simple, combined or in_context.
        max_tokens: of an answer; theirs has 1,000.
    """
    recipe = isheep_paper(score_above=0.0, judge=Judge("quality", standard, "base", method, calibrate_on=2))  # type: ignore[arg-type]
    sampling = Sampling(max_tokens=max_tokens, top_p=0.95)
    return replace(
        recipe, proposer=Repeated(samples=1), prompt_filters=(), sampling=sampling, rounds=1, per_round=64, min_yield=1.0
    )


def main() -> None:
    rows = [
        json.loads(line)
        for path in sorted(Path(sys.argv[1]).glob("round-01/*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    asked = [row for row in rows if row["scores"] or row.get("rule") == "unparsed"]
    print(f"{len(rows)} pairs, {len(asked)} past the rules; share of these with both scores readable and above the threshold:")
    for bound in range(10):
        passed = sum(all(row["scores"].get(name, 0.0) > bound for name in BOTH) for row in asked)
        value, low, high = (100 * figure for figure in wilson(passed, len(asked)))
        print(f"  > {bound}: {passed:3} of {len(asked)}  {value:3.0f} % [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    main()

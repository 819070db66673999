"""What `isara` keeps where the model writes just what a seed file's other half says: `perfect_model.py FILE [NEXT]`.

With one FILE its first half are the seeds and its second half is what is "generated"; with NEXT that file is. Whatever a rule
drops here it would take from a model without fault. --patterned turns novelty and near-duplicates off, for files of one pattern.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from selfalign import align, read_seeds
from selfalign.encoders import Hashed, SentenceEncoder
from selfalign.engines import Scripted
from selfalign.filters import NearDuplicates, Novelty
from selfalign.recipe import Recipe
from selfalign.recipes import isara
from selfalign.record.store import Store
from selfalign.trainers import NullTrainer
from selfalign.types import Example, ModelRef, Request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("next", type=Path, nargs="?")
    parser.add_argument("--patterned", action="store_true")
    asked = parser.parse_args()
    rows = read_seeds(asked.file)
    half = len(rows) // 2
    seeds, new = (rows, read_seeds(asked.next)) if asked.next else (rows[:half], rows[half:])

    def replies(_: ModelRef, request: Request) -> str:
        if request.prompt is None:
            return new[int(request.id.split("-")[1]) % len(new)].prompt
        return next((row.response for row in new if row.prompt.strip() == request.prompt.strip()), "?")

    recipe = isara()
    if asked.patterned:
        kinds = (Novelty, NearDuplicates)
        recipe = replace(
            recipe, encoder=Hashed(), prompt_filters=tuple(each for each in recipe.prompt_filters if not isinstance(each, kinds))
        )
    else:
        recipe = replace(recipe, encoder=SentenceEncoder())
    recipe = replace(
        recipe,
        rounds=1,
        per_round=len(new),
        engine=Scripted(replies=replies),
        trainer=NullTrainer(),
        validation_share=0.0,
        min_yield=0.0,
    )
    show(recipe, seeds, len(new))


def show(recipe: Recipe, seeds: Sequence[Example], written: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        align(recipe, "scripted", seeds, Path(folder) / "run")
        with Store.read(Path(folder) / "run") as store:
            kept, dropped = store.kept(1), store.dropped(1)
    print(f"kept {len(kept)} of {written}:", dict(Counter(each.rule for each in dropped)))
    for each in dropped:
        print("  ", each.rule, "|", " ".join(each.evidence.split())[:140])


if __name__ == "__main__":
    main()

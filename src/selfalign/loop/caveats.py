"""What the parts that measure and score say of the examples that they are given, before anybody reads their figures."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.evaluators import Guard
from selfalign.loop.prompts import declined
from selfalign.protocols import Preflight, declared
from selfalign.recipe import Recipe
from selfalign.types import Example


def caveats(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example]) -> list[str]:
    """Their `Preflight.preflight`; the guard suite hears which categories are declined from the run's own `Refusal`, as the gate
    does."""
    found = []
    for part in (*recipe.evaluators, *recipe.scorers):
        if isinstance(part, Guard):
            found.append(part.lost_on_purpose(seeds, held_out, declined(recipe.evaluators, seeds or held_out)))
        else:
            found.append(declared(part, Preflight).preflight(seeds, held_out))
    return [text for text in found if text]

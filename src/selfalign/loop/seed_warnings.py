"""What is said of a run's examples before anything is generated: by `check`, and once more by the run itself."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.loop.budgets import short_budgets, too_long
from selfalign.loop.preflight import aim_warning, strange_prompts, trained_and_validated, uneven_categories
from selfalign.recipe import Recipe
from selfalign.types import Example, ModelRef


def seed_warnings(
    recipe: Recipe, base: ModelRef, shown: Sequence[Example], validation: Sequence[Example], held_out: Sequence[Example]
) -> list[str]:
    """Findings that stop nothing; [] where there are none."""
    seeds = (*shown, *validation)
    found = (
        short_budgets(recipe, base, seeds, held_out),
        too_long(recipe, base, shown),
        *strange_prompts(recipe, seeds, held_out),
        uneven_categories(seeds, validation) if recipe.rounds and recipe.trains else "",
        aim_warning(recipe, validation),
        trained_and_validated(recipe, shown, validation),
    )
    return [text for text in found if text]

"""The shortcut audit (`proof.shortcuts`) of what a recipe measures: its refusals, and what is expected of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfalign.encoders.blind import encoder_blind
from selfalign.errors import UserError
from selfalign.evaluators import Expected, Refusal
from selfalign.proof.shortcuts import Sides, audit, given_away, one_answer, warning
from selfalign.protocols import Encode
from selfalign.recipe import Recipe
from selfalign.types import Example

ENCODED = 500
"""Held-out prompts up to which the nearest seed is asked: an encoder takes a few seconds for them."""


def audited(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example], encode: Encode | None = None) -> list[Any]:
    """The rows of `audit`, none where the recipe measures no refusals, or the examples have not both categories; and what one
    seed's answer to everything reaches where something is expected of answers.

    Args:
        encode: the recipe's encoder, for the rule by the nearest seed; it is left out where the encoder cannot read the seeds.
    """
    rows: list[dict[str, Any]] = []
    for ours, theirs in _sides(recipe, seeds, held_out)[:1]:
        both = all(map(len, (*ours, *theirs))) and len(held_out) <= ENCODED
        rows = audit(ours, theirs, encode if both and encode is not None and _reads(recipe, seeds, encode) else None)
    expected = [part for part in recipe.evaluators if isinstance(part, Expected)]
    found = [each for part in expected if (each := part.one_answer(seeds, held_out)) is not None]
    return [*rows, *(one_answer(*each) for each in found)]


def _reads(recipe: Recipe, seeds: Sequence[Example], encode: Encode) -> bool:
    """Whether the encoder says something of the seeds. One that is not installed does not: recipes that need none run without."""
    try:
        return not encoder_blind(recipe.encoder, seeds, encode)
    except UserError:
        return False


def shortcut_warning(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example], rows: Sequence[Any]) -> str:
    """The rule that wins the test, `rows` being its audit; where there is none, how the seeds give their categories away."""
    return warning(rows) or next((given_away(ours) for ours, _ in _sides(recipe, seeds, held_out)), "")


def _sides(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[Sides, Sides]]:
    parts = [part for part in recipe.evaluators if isinstance(part, Refusal)]
    return [(part.sides(seeds), part.sides(held_out)) for part in parts]

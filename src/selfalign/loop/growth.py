"""A run that grows: the seeds that join it on its way, round by round.

The validation seeds and whatever the rounds are measured by stay those of the start, so that all rounds can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfalign.errors import UserError
from selfalign.loop.budgets import settled
from selfalign.loop.context import Joining, Setup
from selfalign.loop.preflight import Prepared
from selfalign.loop.vectors import RunVectors
from selfalign.recipe import Recipe
from selfalign.types import Example, Pool

SAME = ("evaluators", "eval_sampling", "replay", "trainer")
"""What keeps the token budgets of the start: answers to the held-out prompts are compared from round to round; and what
memory decided of the training."""


def later_rounds(
    recipe: Recipe, model: str, seeds: Sequence[Example], first: Prepared, joined: Sequence[tuple[int, tuple[Example, ...]]]
) -> tuple[Joining, ...]:
    """What joins a run, with the recipe as it runs from then on.

    Args:
        recipe: as it was asked for, before `settled`.
        seeds: those of the start.
        first: what the run began with.
        joined: (round, seeds), as `record.joined` has them.

    Raises:
        UserError: seeds that the model or the run's encoder cannot be given.
    """
    found, known = [], tuple(seeds)
    for round, more in joined:
        known = (*known, *more)
        grown, _ = settled(recipe, model, known, first.held_out)
        if grown.encoder != first.recipe.encoder:
            name = type(first.recipe.encoder).__name__
            raise UserError(f"the run's encoder, {name}, cannot read the new seeds; begin a new run with all of them")
        found.append(Joining(round, more, replace(grown, **{name: getattr(first.recipe, name) for name in SAME})))
    return tuple(found)


def grown(run: Setup, pool: Pool, round: int) -> tuple[Setup, Pool]:
    """The run and its pool with the seeds that join for a round.

    Texts are embedded anew from there on: so a run that goes on has the vectors of one that was not stopped.
    """
    joining = next(each for each in run.later if each.round == round)
    run = replace(run, recipe=joining.recipe, vectors=RunVectors(joining.recipe.encoder, run.asked))
    return run, Pool(((*pool.seeds, *joining.seeds), *pool.parts[1:]))

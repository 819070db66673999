"""What the parts that measure and score say of the examples that they are given, before anybody reads their figures; and who
asks a trained model that no server has."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.evaluators import Guard
from selfalign.loop.prompts import declined
from selfalign.protocols import Flags, Preflight, declared
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
    found.append(_unserved(recipe, held_out))
    return [text for text in found if text]


def _unserved(recipe: Recipe, held_out: Sequence[Example]) -> str:
    """That the run asks a trained model, and its engine is a server that goes on with the weights it was started with; ""
    otherwise. Whether the server comes to list the model's folder is not known before it is trained."""
    stays = getattr(recipe.engine, "reload", "") == "none"
    if not stays or not recipe.rounds or declared(recipe.trainer, Flags).lora_rank is None:
        return ""
    asking = {
        "to write round 2 (--rounds 1)": recipe.rounds > 1 and recipe.per_round > 0,
        "to choose the round (--validation_share 0)": recipe.validation_share > 0,
        "for the guard suite (--guard.parts none)": any(isinstance(part, Guard) and part.measures for part in recipe.evaluators),
        "for the held-out prompts (no --held_out)": bool(held_out),
    }
    if not (needs := [what for what, needed in asking.items() if needed]):
        return ""
    return (
        "engine.reload=none: the server runs the weights it was started with, and the trained model is asked too, "
        f"{', '.join(needs)}: the run ends behind the training of round 1, unless the server lists that folder by then; give"
        " --engine.reload, or what stands in brackets"
    )

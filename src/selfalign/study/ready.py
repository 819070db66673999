"""The arms of a study, and all that can be known of them before a model generates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.loop.budgets import settled
from selfalign.loop.preflight import check_examples, prepared, seeds_needed
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import bring_their_own
from selfalign.types import Example


@dataclass(frozen=True)
class Arm:
    """One of the things compared; the first arm of a study is the one that the others are compared with."""

    name: str
    recipe: Recipe
    model: str
    seeds: tuple[Example, ...]
    matched: str = ""
    """The arm, one before it, from whose run of the same random seed it takes its optimiser steps; "" for none."""
    point_of: str = ""
    """The arm with all the seeds on whose learning curve it is a point; such an arm is compared along that curve alone."""

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w=.+-]+", "_", self.name)

    def run(self, seed: int) -> str:
        """The run folder of a random seed, in that of the study."""
        return f"{self.folder}/seed-{seed}"


def check(arms: Sequence[Arm], held_out: Sequence[Example], out: Path, repeats: int) -> tuple[Example, ...]:
    """Everything that can be known before a model generates, for all arms; the held-out prompts with ids no seed has."""
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: at least 1 is needed, 3 make sense")
    if len(held_out) < 2 and not bring_their_own(arms[0].recipe.evaluators, gains=True):
        raise UserError(
            "a study measures its arms on held-out prompts: give --held_out FILE with at least 2, or an evaluator with questions"
            " of its own (--truthfulness.file, --lm_eval.ifeval_file)"
        )
    if (out / "run.sqlite").exists():
        raise UserError(f"{out} is the folder of a single run; give the study an --out of its own")
    taken: dict[str, str] = {}
    for arm in arms:
        if (place := arm.folder.casefold()) in taken:
            shared = f"arms {taken[place]} and {arm.name} would share the folder {arm.folder}"
            raise UserError(f"{shared}; give each arm once, and each file that is varied a name of its own")
        taken[place] = arm.name
        arm.recipe.check()
        if arm.recipe.review:
            raise UserError(
                f"arm {arm.name} would wait for a review: a study runs without people; give its recipe review = false"
            )
    named = [check_examples(arm.seeds, held_out, arm.recipe.allow_overlap, seeds_needed(arm.recipe)) for arm in arms]
    # Where some arm's seeds share an id with a prompt, every arm sees the renamed prompts, else they could not be paired.
    return next((prompts for prompts in named if prompts != tuple(held_out)), named[0])


def with_one_yardstick(arms: Sequence[Arm], held_out: Sequence[Example]) -> list[Arm]:
    """The arms with the main one's room for answers: where no held-out prompt has a response it follows from the seeds, and
    longer answers of the arm with longer seeds would be finished, answered and refused more often."""
    main = arms[0]
    if all(arm.seeds == main.seeds for arm in arms):
        return list(arms)
    known, _ = settled(main.recipe, main.model, main.seeds, held_out)
    room: dict[str, Any] = {"eval_sampling": known.eval_sampling, "evaluators": known.evaluators}
    alike = [arm.model == main.model and arm.seeds != main.seeds for arm in arms]
    return [replace(arm, recipe=replace(arm.recipe, **room)) if same else arm for arm, same in zip(arms, alike, strict=True)]


def check_arms(arms: Sequence[Arm], held_out: Sequence[Example], seed: int) -> None:
    """All that a run checks before its model loads, for every arm: none is to stop a study that others were paid for.

    Raises:
        UserError: what is wrong with an arm; or memory would decide differently for arms of one model, and what trains more
            weights is no fair comparison.
    """
    found: dict[str, dict[str, str]] = {}
    for arm in arms:
        try:
            decided = prepared(replace(arm.recipe, seed=seed), arm.model, arm.seeds, held_out).recipe.trainer
        except (UserError, RunFailed) as error:
            raise type(error)(f"arm {arm.name}: {error}") from error
        if _trains_as_memory_allows(arm.recipe):
            found.setdefault(arm.model, {})[arm.name] = getattr(decided, "method", "")
    for methods in found.values():
        if len({*methods.values()}) > 1:
            each = ", ".join(f"{name}: {method}" for name, method in methods.items())
            raise UserError(
                f"memory decides differently for the arms ({each}), which could not be compared; give all of them one method:"
                " --trainer.method lora"
            )


def _trains_as_memory_allows(recipe: Recipe) -> bool:
    asked = getattr(recipe.trainer, "method", ""), getattr(recipe.trainer, "lora_rank", 0)
    return recipe.trains and recipe.rounds > 0 and asked == ("auto", None)

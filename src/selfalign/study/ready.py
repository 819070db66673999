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
from selfalign.protocols import Progress
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import bring_their_own, depends_on_seed
from selfalign.record.removed import Keep
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

    @property
    def run(self) -> str:
        """The run folder of the recipe's random seed, in that of the study."""
        return f"{self.folder}/seed-{self.recipe.seed}"


@dataclass(frozen=True)
class Study:
    """What is compared, and what all runs have in common."""

    arms: Sequence[Arm]
    """The main one first."""
    held_out: Sequence[Example]
    """The prompts that every arm is measured on."""
    out: Path
    repeats: int = 3
    """Random seeds, from that of the main arm's recipe on. An arm on which they have no effect runs once."""
    progress: Progress | None = None
    """Hears of stages and batches, with arm and random seed before the stage's name."""
    trackers: Sequence[str] = ()
    """Where each run's figures go, as `check_trackers` gives them; finished runs are reported too."""
    files: Sequence[Path] = ()
    """As for `align`."""
    keep: Keep = "last"
    """As for `align`."""

    @property
    def seeds(self) -> range:
        first = self.arms[0].recipe.seed
        return range(first, first + self.repeats)

    @property
    def runs(self) -> list[Arm]:
        """Every run: all arms on one random seed before the next, each arm with that seed."""
        return [
            replace(arm, recipe=replace(arm.recipe, seed=seed))
            for seed in self.seeds
            for arm in self.arms
            if seed == self.seeds[0] or depends_on_seed(arm.recipe)
        ]

    def standard(self, run: Arm) -> str:
        """The folder of the run whose steps a run takes."""
        return [one.run for one in self.runs if one.name == run.matched and one.recipe.seed <= run.recipe.seed][-1]


def checked(study: Study) -> Study:
    """The study after everything that can be known of its arms before a model generates: held-out prompts with ids that no seed
    has, and one room for answers."""
    arms, held_out, out = study.arms, study.held_out, study.out
    if study.repeats < 1:
        raise UserError(f"--repeats {study.repeats}: at least 1 is needed, 3 make sense")
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
            why = f"arm {arm.name} would wait for a review: a study runs without people"
            raise UserError(f"{why}; give its recipe review = false")
    named = [check_examples(arm.seeds, held_out, arm.recipe.allow_overlap, seeds_needed(arm.recipe)) for arm in arms]
    # Where some arm's seeds share an id with a prompt, every arm sees the renamed prompts, else they could not be paired.
    held_out = next((prompts for prompts in named if prompts != tuple(held_out)), named[0])
    return replace(study, arms=_with_one_yardstick(arms, held_out), held_out=held_out)


def _with_one_yardstick(arms: Sequence[Arm], held_out: Sequence[Example]) -> list[Arm]:
    """The arms with the main one's room for answers: where no held-out prompt has a response it follows from the seeds, and
    longer answers of the arm with longer seeds would be finished, answered and refused more often."""
    main = arms[0]
    if all(arm.seeds == main.seeds for arm in arms):
        return list(arms)
    known, _ = settled(main.recipe, main.model, main.seeds, held_out)
    room: dict[str, Any] = {"eval_sampling": known.eval_sampling, "evaluators": known.evaluators}
    alike = [arm.model == main.model and arm.seeds != main.seeds for arm in arms]
    return [replace(arm, recipe=replace(arm.recipe, **room)) if same else arm for arm, same in zip(arms, alike, strict=True)]


def check_arms(study: Study) -> None:
    """All that a run checks before its model loads, for every arm: none is to stop a study that others were paid for. Raises
    UserError: what is wrong with an arm; or memory would decide differently for arms of one model, and what trains more weights
    is no fair comparison."""
    found: dict[str, dict[str, str]] = {}
    for arm in study.runs[: len(study.arms)]:
        try:
            decided = prepared(arm.recipe, arm.model, arm.seeds, study.held_out).recipe.trainer
        except (UserError, RunFailed) as error:
            raise type(error)(f"arm {arm.name}: {error}") from error
        asked = getattr(arm.recipe.trainer, "method", ""), getattr(arm.recipe.trainer, "lora_rank", 0)
        if arm.recipe.trains and arm.recipe.rounds > 0 and asked == ("auto", None):
            found.setdefault(arm.model, {})[arm.name] = getattr(decided, "method", "")
    for methods in found.values():
        if len({*methods.values()}) > 1:
            each = ", ".join(f"{name}: {method}" for name, method in methods.items())
            raise UserError(
                f"memory decides differently for the arms ({each}), which could not be compared; give all of them one method:"
                " --trainer.method lora"
            )

"""The runs that a study has, and what stands of them in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.loop.align import run_identity
from selfalign.loop.budgets import settled
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import depends_on_seed
from selfalign.record.checkpoints import write_synced
from selfalign.record.finished import Finished, read_run
from selfalign.record.plain import difference, dumps, granted, in_words, raised
from selfalign.record.schema import NAME as RECORD
from selfalign.record.store import Store
from selfalign.study.ready import Arm
from selfalign.types import Example

PLAN = "runs.json"
"""{"main", "runs": their folders}: how far a study is that has no table yet, nobody else can tell."""


def units(arms: Sequence[Arm], first_seed: int, repeats: int) -> list[tuple[Arm, int]]:
    """Every run of a study: all arms on one random seed before the next."""
    seeds = range(first_seed, first_seed + repeats)
    return [(arm, seed) for seed in seeds for arm in arms if seed == first_seed or depends_on_seed(arm.recipe)]


def standard_of(arm: Arm, seed: int, every: Sequence[tuple[Arm, int]]) -> str:
    """The folder of the run whose steps an arm takes on a random seed."""
    return [one.run(each) for one, each in every if one.name == arm.matched and each <= seed][-1]


def write_plan(out: Path, every: Sequence[tuple[Arm, int]]) -> None:
    plan = {"main": every[0][0].name, "runs": [arm.run(seed) for arm, seed in every]}
    write_synced(out / PLAN, (json.dumps(plan, indent=1, ensure_ascii=False) + "\n").encode())


def is_done(folder: Path) -> bool:
    """Whether a finished run stands there, whatever its options."""
    try:
        with Store.read(folder) as store:
            return bool(store.state().get("state") == "done")
    except UserError:
        return False


def has_work(out: Path) -> bool:
    """Whether any run of the study has something in its record that a model was paid for."""
    for record in out.glob(f"*/seed-*/{RECORD}"):
        try:
            with Store.read(record.parent) as store, store.snapshot() as connection:
                if connection.execute("SELECT count(*) FROM batches").fetchone()[0]:
                    return True
        except UserError:
            continue
    return False


def identity_of(arm: Arm, held_out: Sequence[Example]) -> dict[str, Any]:
    """What `align` writes into a run folder, as it is read back from one."""
    recipe, start = settled(arm.recipe, arm.model, arm.seeds, held_out)
    plain: dict[str, Any] = json.loads(dumps(run_identity(recipe, start, arm.seeds, held_out)))
    return plain


def is_finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the run stands there, done, with the same options and permissions, seeds, prompts and model files.

    Raises:
        UserError: what stands there, done or begun, was made with others; the first difference is named.
    """
    try:
        store = Store.read(folder)
    except UserError:  # nothing there, or nothing recorded yet; `align` says what is wrong with anything else
        return False
    with store:
        if not (known := store.identity()):
            return False
        done, allowed = store.state().get("state") == "done", granted(known, identity)
        if change := difference(allowed if done else raised(allowed, identity), identity):
            raise UserError(f"{folder} was made with {in_words(change)}: use another --out, or the same options")
        return done and not difference(known, identity)  # it may have ended for want of what is permitted now


def check_begun(every: Sequence[tuple[Arm, int]], held_out: Sequence[Example], out: Path) -> None:
    """
    Raises:
        UserError: some run of the study, finished or not, was made with other options than it has now.
    """
    for arm, seed in every:
        folder, recipe = arm.run(seed), replace(arm.recipe, seed=seed)
        if not (out / folder / RECORD).exists():
            continue
        if arm.matched:
            standard = standard_of(arm, seed, every)
            if not is_done(out / standard):  # its steps are not known yet
                continue
            recipe = match_steps(recipe, read_run(out, standard, seed, held_out))
        try:
            is_finished(out / folder, identity_of(replace(arm, recipe=recipe), held_out))
        except UserError as error:
            raise UserError(f"arm {arm.name}, random seed {seed}: {error}") from error


def match_steps(recipe: Recipe, main: Finished) -> Recipe:
    """The recipe with the optimiser steps of the main arm's run, round by round up to its best one.

    Where the main arm fell back on the base model, all it trained counts, and where it trained nothing the recipe trains as it
    does by itself: an arm that trains nothing could not show that plain training would have helped. A recipe of fewer rounds
    takes all of them in its own: cut into many short trainings, each with a warm-up and a decay, the same steps teach far less,
    and a baseline of another loss is not to suffer that.
    """
    steps = main.steps[: main.best_round if main.of_round is None else main.of_round] or main.steps
    if not steps:
        return recipe
    if recipe.rounds < len(steps):
        total = sum(steps)
        steps = tuple(total * (k + 1) // recipe.rounds - total * k // recipe.rounds for k in range(recipe.rounds))
    return replace(recipe, steps=steps, rounds=len(steps))
